#include "server/engine/weights/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {

absl::StatusOr<std::unique_ptr<MappedFile>> MappedFile::Open(const std::string& path,
                                                             const std::string& name) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  struct stat status = {};
  if (fstat(fd.get(), &status) != 0) return FileError(errno, "stat", path);
  if (!S_ISREG(status.st_mode)) {
    return Error(Reason::kInvalidRepository, absl::StrCat(name, ": is not a regular file"));
  }
  if (status.st_size == 0) {
    return Error(Reason::kInvalidRepository, absl::StrCat(name, ": is empty"));
  }
  const auto bytes = static_cast<size_t>(status.st_size);
  void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (map == MAP_FAILED) return FileError(errno, "map", path);
  return std::unique_ptr<MappedFile>(new MappedFile(map, bytes));
}

MappedFile::~MappedFile() { munmap(map_, bytes_); }

}  // namespace modeld
