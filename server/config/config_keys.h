// The one table of everything that can be set. File, environment, flags and the sample file follow
// from it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "server/config/config.h"

namespace modeld {

enum class ConfigType { kString, kInteger, kBoolean, kStringList, kIntegerList };

// Where a value goes; what is there in a new Config is the default.
using ConfigTarget =
    std::variant<std::string*, int64_t*, bool*, std::vector<std::string>*, std::vector<int64_t>*>;

struct ConfigKey {
  std::string section;
  std::string key;
  ConfigTarget (*target)(Config& config);
  std::string help;   // sentences for the sample file
  int64_t min = 0;    // integers, also in lists
  int64_t max = 0;    // integers, also in lists
  std::string empty;  // what an empty or 0 value stands for, "" when it has no such meaning
  std::vector<std::string> choices;  // strings; empty: any
  char separator = ':';              // of lists, in the environment and in flags

  std::string name() const { return section + "." + key; }
  ConfigType type() const;
  // As TOML: "\"127.0.0.1:50051\"", "256", "false", "[]".
  std::string default_text() const;
  // MODELD_SECTION_KEY.
  std::string environment_name() const;
  // "--section-key" with '-' for '_' and '.'.
  std::string flag() const;
};

// In the order of the sample file.
std::vector<ConfigKey> AllConfigKeys();

// deploy/modeld.toml: each key with its help, its environment variable and its default, commented
// out.
std::string RenderConfigSample();

}  // namespace modeld
