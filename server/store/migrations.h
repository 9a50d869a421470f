// The numbered SQL files of migrations/, built into the program.
#pragma once

#include <span>
#include <string_view>

namespace modeld {

struct Migration {
  int version = 0;        // 1, 2, ... without a gap
  std::string_view name;  // of the file, without its number and ending
  std::string_view sql;
};

// In order of version.
std::span<const Migration> Migrations();

}  // namespace modeld
