// Files and descriptors: owning handle, whole reads and writes, atomic replacement, flock.
// Every error is a Status that names the path and the system's reason: NOT_FOUND,
// PERMISSION_DENIED, RESOURCE_EXHAUSTED (disk or quota full), else INTERNAL.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// Owns a descriptor; closes it at the end of its life.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  ~UniqueFd() { Reset(); }
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) {
      Reset();
      fd_ = std::exchange(other.fd_, -1);
    }
    return *this;
  }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int Release() { return std::exchange(fd_, -1); }
  void Reset();

 private:
  int fd_ = -1;
};

// The status for `error` (an errno) at `path`; `what` is the verb: "open", "rename".
absl::Status FileError(int error, std::string_view what, std::string_view path);

// open(2) with O_CLOEXEC added.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags, mode_t mode = 0);

// The whole file; RESOURCE_EXHAUSTED when it is longer than `bytes_max`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t bytes_max = 64 << 20);

// Writes all of `data` at `offset`, over as many calls as that takes.
absl::Status WriteAt(int fd, std::span<const char> data, int64_t offset, std::string_view path);

// Reads data.size() bytes at `offset`; fewer only at the end of the file. Says how many.
absl::StatusOr<int64_t> ReadAt(int fd, std::span<char> data, int64_t offset, std::string_view path);

// Makes `path` hold exactly `data`: temporary file in the same directory, fsync, rename, fsync of
// the directory. A reader sees the old content or the new, and so does a machine that lost power.
absl::Status WriteFileAtomically(const std::string& path, std::string_view data,
                                 mode_t mode = 0644);

// fsync(2) of a directory, so that a rename in it is durable.
absl::Status SyncDirectory(const std::string& path);

// mkdir -p; existing directories are fine. `mode` goes through the umask.
absl::Status MakeDirectories(const std::string& path, mode_t mode = 0777);

// An exclusive flock(2) on a file that is made when missing (mode 0664 whatever the umask) and
// never removed. Let go when the object ends.
class FileLock {
 public:
  // UNAVAILABLE when somebody else holds it, UNIMPLEMENTED where there are no such locks.
  static absl::StatusOr<FileLock> TryAcquire(const std::string& path);

 private:
  explicit FileLock(UniqueFd fd) : fd_(std::move(fd)) {}
  UniqueFd fd_;
};

}  // namespace modeld
