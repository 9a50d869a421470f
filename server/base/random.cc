#include "server/base/random.h"

#include <sys/random.h>

#include <array>
#include <cstdint>
#include <cstring>

#include "absl/strings/escaping.h"
#include "server/base/status.h"

namespace modeld {
namespace {

std::string RandomBytes(size_t n) {
  std::string bytes(n, '\0');
  MODELD_CHECK(getrandom(bytes.data(), n, 0) == static_cast<ssize_t>(n), "getrandom failed");
  return bytes;
}

}  // namespace

std::string RandomUuid() {
  std::string bytes = RandomBytes(16);
  bytes[6] = static_cast<char>((bytes[6] & 0x0f) | 0x40);
  bytes[8] = static_cast<char>((bytes[8] & 0x3f) | 0x80);
  std::string hex = absl::BytesToHexString(bytes);
  for (const size_t at : {20, 16, 12, 8}) hex.insert(at, "-");
  return hex;
}

std::string RandomHex(int bytes) {
  return absl::BytesToHexString(RandomBytes(static_cast<size_t>(bytes)));
}

double RandomUnit() {
  const std::string bytes = RandomBytes(8);
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), sizeof word);
  return static_cast<double>(word >> 11) * 0x1.0p-53;
}

}  // namespace modeld
