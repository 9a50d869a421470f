// The directory of a zip archive, so that its entries can be read where they lie.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace modeld {

struct ZipEntry {
  int64_t offset = 0;  // of the first data byte in the archive
  int64_t bytes = 0;   // as they lie there
};

using ZipDirectory = std::map<std::string, ZipEntry, std::less<>>;

// Reads the directory of a whole archive, zip64 too. Each entry lies within `archive`. `file` names
// it in errors. INVALID_REPOSITORY when it is no zip archive, is cut, has a name twice or entries
// outside of itself; UNSUPPORTED_WEIGHTS for entries that are compressed or encrypted.
absl::StatusOr<ZipDirectory> ReadZipDirectory(std::string_view archive, std::string_view file);

}  // namespace modeld
