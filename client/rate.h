// Rates as people write them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace modeld {

// Bytes a second of "50MB/s", "1.5 GiB", "800k", "0" or "none" (0: no limit). Letters of either
// case; k, M, G, T are powers of 1000, with an i of 1024. Nothing for what is no such text, is
// below 0, or is more than 64 bits hold.
std::optional<int64_t> ParseRate(const std::string& text);

}  // namespace modeld
