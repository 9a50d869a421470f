// A regular file mapped into memory, read-only.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace modeld {

// Thread-safe. A file that is cut short while it is mapped ends the process with SIGBUS.
class MappedFile {
 public:
  // `name` names the file in errors. INVALID_REPOSITORY when it is empty or no regular file;
  // NOT_FOUND and others of base/file when it cannot be read.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path,
                                                          const std::string& name);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::string_view bytes() const { return {static_cast<const char*>(map_), bytes_}; }

 private:
  MappedFile(void* map, size_t bytes) : map_(map), bytes_(bytes) {}

  void* const map_;
  const size_t bytes_;
};

}  // namespace modeld
