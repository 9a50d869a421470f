#include "server/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "server/base/random.h"
#include "server/base/status.h"

namespace modeld {

void UniqueFd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

absl::Status FileError(int error, std::string_view what, std::string_view path) {
  std::string message(what);
  message.append(" ").append(path).append(": ").append(std::generic_category().message(error));
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::NotFoundError(message);
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode) {
  UniqueFd fd(open(path.c_str(), flags | O_CLOEXEC, mode));
  if (!fd.valid()) return FileError(errno, "open", path);
  return fd;
}

absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_RDONLY));
  std::string content;
  char buffer[65536];
  while (true) {
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "read", path);
    if (n == 0) return content;
    content.append(buffer, static_cast<size_t>(n));
    if (static_cast<int64_t>(content.size()) > bytes_max) {
      return absl::ResourceExhaustedError(
          absl::StrCat("read ", path, ": longer than ", bytes_max, " bytes"));
    }
  }
}

absl::Status WriteAt(int fd, std::span<const char> data, int64_t offset, std::string_view path) {
  while (!data.empty()) {
    const ssize_t n = pwrite(fd, data.data(), data.size(), offset);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "write", path);
    data = data.subspan(static_cast<size_t>(n));
    offset += n;
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ReadAt(int fd, std::span<char> data, int64_t offset,
                               std::string_view path) {
  int64_t total = 0;
  while (!data.empty()) {
    const ssize_t n = pread(fd, data.data(), data.size(), offset + total);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return FileError(errno, "read", path);
    if (n == 0) break;
    data = data.subspan(static_cast<size_t>(n));
    total += n;
  }
  return total;
}

absl::Status WriteFileAtomically(const std::string& path, std::string_view data, mode_t mode) {
  const std::string temporary = absl::StrCat(path, ".", RandomHex(4), ".tmp");
  const auto write_all = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(temporary, O_WRONLY | O_CREAT | O_EXCL, mode));
    RETURN_IF_ERROR(WriteAt(fd.get(), data, 0, temporary));
    if (fsync(fd.get()) != 0) return FileError(errno, "fsync", temporary);
    if (rename(temporary.c_str(), path.c_str()) != 0) return FileError(errno, "rename", path);
    return absl::OkStatus();
  };
  if (absl::Status status = write_all(); !status.ok()) {
    unlink(temporary.c_str());
    return status;
  }
  return SyncDirectory(std::filesystem::path(path).parent_path().string());
}

absl::Status SyncDirectory(const std::string& path) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path.empty() ? "." : path, O_RDONLY | O_DIRECTORY));
  if (fsync(fd.get()) != 0) return FileError(errno, "fsync", path);
  return absl::OkStatus();
}

namespace {

bool IsDirectory(const std::string& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

}  // namespace

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  if (IsDirectory(path)) return absl::OkStatus();
  for (size_t at = 1; at <= path.size(); ++at) {
    if (at != path.size() && path[at] != '/') continue;
    const std::string prefix = path.substr(0, at);
    if (mkdir(prefix.c_str(), mode) == 0) continue;
    const int error = errno;
    if (!IsDirectory(prefix)) return FileError(error == EEXIST ? ENOTDIR : error, "mkdir", prefix);
  }
  return absl::OkStatus();
}

absl::StatusOr<FileLock> FileLock::TryAcquire(const std::string& path) {
  while (true) {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0664));
    if (fd.valid()) {
      fchmod(fd.get(), 0664);  // past the umask, so that others may lock it too
    } else if (errno == EEXIST) {
      fd = UniqueFd(open(path.c_str(), O_RDWR | O_NOFOLLOW | O_CLOEXEC));
      // flock works on a read-only descriptor, for a file of somebody else.
      if (!fd.valid()) fd = UniqueFd(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
      if (!fd.valid() && errno == ENOENT) continue;
    }
    if (!fd.valid()) return FileError(errno, "open", path);
    if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK)
        return absl::UnavailableError(absl::StrCat("lock ", path, " is held"));
      const int error = errno;
      const absl::Status status = FileError(error, "flock", path);
      const bool none = error == ENOSYS || error == EOPNOTSUPP || error == ENOLCK;
      return none ? absl::UnimplementedError(status.message()) : status;
    }
    // Whoever removed the file while we waited left us a lock that nobody else sees.
    struct stat ours{};
    struct stat named{};
    if (fstat(fd.get(), &ours) == 0 && stat(path.c_str(), &named) == 0 &&
        ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) {
      return FileLock(std::move(fd));
    }
  }
}

}  // namespace modeld
