// For LD_PRELOAD: faults of disks that this machine does not have, below one folder. The folder
// $DISK_FAULTS holds the file `faults`, which is read at each call and so may change meanwhile; a
// line each:
//   below PATH        where the faults apply; nothing does without it
//   quota BYTES       more than that allocated below PATH is EDQUOT; statvfs(3) says nothing of it
//   full BYTES        the same with ENOSPC, and statvfs(3) says what is left
//   flock enosys      flock(2) is not there
//   flock lies        flock(2) always succeeds and excludes nobody
//   record            what is written and not synced stands in the file `writes`, for power_cut
//   boot_id ID        what /proc/sys/kernel/random/boot_id says, of the whole process
// Calls through stdio and io_uring go past it.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <string>
#include <system_error>

#include "tests/support/disk_faults/file_identity.h"

namespace {

constexpr const char* kBootId = "/proc/sys/kernel/random/boot_id";

struct Faults {
  std::string below;
  int64_t quota = -1;
  int64_t full = -1;
  std::string flock;
  bool record = false;
  std::string boot_id;
};

template <typename Function>
Function Real(Function, const char* name) {
  return reinterpret_cast<Function>(dlsym(RTLD_NEXT, name));
}

std::string ControlPath(const char* name) {
  const char* folder = std::getenv("DISK_FAULTS");  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return folder == nullptr ? "" : std::string(folder) + "/" + name;
}

// By system calls, since the functions of that name are ours.
Faults ReadFaults() {
  const int kept_errno = errno;
  Faults faults;
  const std::string path = ControlPath("faults");
  const auto fd =
      static_cast<int>(syscall(SYS_openat, AT_FDCWD, path.c_str(), O_RDONLY | O_CLOEXEC, 0));
  if (!path.empty() && fd >= 0) {
    char text[4096] = {};
    if (read(fd, text, sizeof text - 1) < 0) text[0] = '\0';
    close(fd);
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      if (word == "below") words >> faults.below;
      if (word == "quota") words >> faults.quota;
      if (word == "full") words >> faults.full;
      if (word == "flock") words >> faults.flock;
      if (word == "record") faults.record = true;
      if (word == "boot_id") words >> faults.boot_id;
    }
  }
  errno = kept_errno;
  return faults;
}

bool IsBelow(const Faults& faults, const std::string& path) {
  return !faults.below.empty() && path.starts_with(faults.below) &&
         (path.size() == faults.below.size() || path[faults.below.size()] == '/');
}

bool IsBelow(const Faults& faults, int fd) {
  if (faults.below.empty()) return false;
  char path[4096] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const int kept_errno = errno;
  const ssize_t size = readlink(link.c_str(), path, sizeof path);
  errno = kept_errno;
  return size > 0 && IsBelow(faults, std::string(path, static_cast<size_t>(size)));
}

int64_t AllocatedBelow(const std::string& folder) {
  int64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    struct stat info{};
    if (lstat(it->path().c_str(), &info) == 0) bytes += info.st_blocks * 512;
  }
  return bytes;
}

// How many of `size` bytes at `offset` may be written, 0 with errno when none. A file's blocks are
// taken for its first bytes, which is right for files without holes.
int64_t Allowed(const Faults& faults, int fd, int64_t offset, int64_t size) {
  if (size == 0 || (faults.quota < 0 && faults.full < 0)) return size;
  struct stat info{};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) return size;
  const int64_t growth = std::clamp<int64_t>(offset + size - info.st_blocks * 512, 0, size);
  if (growth == 0) return size;
  const int64_t used = AllocatedBelow(faults.below);
  for (const auto& [limit, error] :
       {std::pair(faults.quota, EDQUOT), std::pair(faults.full, ENOSPC)}) {
    if (limit < 0 || used + growth <= limit) continue;
    size -= growth - std::max<int64_t>(0, limit - used);
    if (size > 0) return size;
    errno = error;
    return 0;
  }
  return size;
}

void Record(const std::string& line) {
  const std::string path = ControlPath("writes");
  const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC;
  const auto log = static_cast<int>(syscall(SYS_openat, AT_FDCWD, path.c_str(), flags, 0666));
  // A line that is lost would let a test pass that should not.
  if (syscall(SYS_write, log, line.data(), line.size()) != static_cast<long>(line.size())) abort();
  close(log);
}

// Before the bytes are there, so that a kill between the two is on the safe side.
void RecordWrite(const Faults& faults, int fd, int64_t offset, int64_t size) {
  if (!faults.record) return;
  const int kept_errno = errno;
  Record("W " + modeld::FileIdentity(fd) + " " + std::to_string(offset) + " " +
         std::to_string(size) + "\n");
  errno = kept_errno;
}

int64_t Position(int fd) {
  struct stat info{};
  const bool appends = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
  if (appends && fstat(fd, &info) == 0) return info.st_size;
  return lseek(fd, 0, SEEK_CUR);
}

template <typename Write>
ssize_t Written(int fd, int64_t offset, size_t size, Write write) {
  const Faults faults = ReadFaults();
  if (!IsBelow(faults, fd)) return write(size);
  const int64_t allowed = Allowed(faults, fd, offset, static_cast<int64_t>(size));
  if (allowed == 0 && size > 0) return -1;
  RecordWrite(faults, fd, offset, allowed);
  return write(static_cast<size_t>(allowed));
}

// What another thread writes meanwhile may not have been synced: the end of a sync speaks of what
// was written before its beginning.
template <typename Sync>
int Synced(int fd, Sync sync) {
  static std::atomic<int> next = 0;
  const Faults faults = ReadFaults();
  if (!faults.record || !IsBelow(faults, fd)) return sync(fd);
  const std::string rest = " " + modeld::FileIdentity(fd) + " " + std::to_string(getpid()) + "." +
                           std::to_string(next++) + "\n";
  Record("B" + rest);
  const int result = sync(fd);
  if (result == 0) Record("S" + rest);
  return result;
}

int Allocated(int fd, int mode, off_t offset, off_t size) {
  static const auto real = Real(&fallocate, "fallocate");
  const Faults faults = ReadFaults();
  const bool takes_space = (mode & ~FALLOC_FL_KEEP_SIZE) == 0;
  if (takes_space && IsBelow(faults, fd) && Allowed(faults, fd, offset, size) < size) {
    errno = faults.quota >= 0 ? EDQUOT : ENOSPC;
    return -1;
  }
  return real(fd, mode, offset, size);
}

void Shrink(const Faults& faults, struct statvfs& space) {
  if (faults.full < 0) return;
  const int64_t left = std::max<int64_t>(0, faults.full - AllocatedBelow(faults.below));
  const fsblkcnt_t blocks = static_cast<fsblkcnt_t>(left) / space.f_frsize;
  space.f_blocks = std::min<fsblkcnt_t>(space.f_blocks, faults.full / space.f_frsize);
  space.f_bfree = std::min(space.f_bfree, blocks);
  space.f_bavail = std::min(space.f_bavail, blocks);
}

// Where the boot id is to be read; `path` itself for everything else.
std::string Redirected(const char* path) {
  if (std::strcmp(path, kBootId) != 0) return path;
  const Faults faults = ReadFaults();
  if (faults.boot_id.empty()) return path;
  const std::string copy = ControlPath("boot_id");
  const int flags = O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC;
  const auto fd = static_cast<int>(syscall(SYS_openat, AT_FDCWD, copy.c_str(), flags, 0666));
  const std::string line = faults.boot_id + "\n";
  if (syscall(SYS_write, fd, line.data(), line.size()) < 0) abort();
  close(fd);
  return copy;
}

}  // namespace

extern "C" {

ssize_t write(int fd, const void* data, size_t size) {
  static const auto real = Real(&write, "write");
  return Written(fd, Position(fd), size, [&](size_t n) { return real(fd, data, n); });
}

ssize_t pwrite(int fd, const void* data, size_t size, off_t offset) {
  static const auto real = Real(&pwrite, "pwrite");
  return Written(fd, offset, size, [&](size_t n) { return real(fd, data, n, offset); });
}

ssize_t pwrite64(int fd, const void* data, size_t size, off64_t offset) {
  return pwrite(fd, data, size, offset);
}

// One buffer at a time: a short write is what the caller must expect anyway.
ssize_t pwritev(int fd, const struct iovec* parts, int count, off_t offset) {
  for (int i = 0; i < count; ++i) {
    if (parts[i].iov_len > 0) return pwrite(fd, parts[i].iov_base, parts[i].iov_len, offset);
  }
  return 0;
}

ssize_t pwritev64(int fd, const struct iovec* parts, int count, off64_t offset) {
  return pwritev(fd, parts, count, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t size) {
  return Allocated(fd, mode, offset, size);
}

int fallocate64(int fd, int mode, off64_t offset, off64_t size) {
  return Allocated(fd, mode, offset, size);
}

int fsync(int fd) {
  static const auto real = Real(&fsync, "fsync");
  return Synced(fd, real);
}

int fdatasync(int fd) {
  static const auto real = Real(&fdatasync, "fdatasync");
  return Synced(fd, real);
}

int flock(int fd, int operation) noexcept {
  static const auto real = Real(&flock, "flock");
  const Faults faults = ReadFaults();
  if (faults.flock.empty() || !IsBelow(faults, fd)) return real(fd, operation);
  if (faults.flock == "lies") return 0;
  errno = ENOSYS;
  return -1;
}

int statvfs(const char* path, struct statvfs* space) noexcept {
  static const auto real = Real(&statvfs, "statvfs");
  const int result = real(path, space);
  const Faults faults = ReadFaults();
  if (result == 0 && IsBelow(faults, std::string(path))) Shrink(faults, *space);
  return result;
}

int fstatvfs(int fd, struct statvfs* space) noexcept {
  static const auto real = Real(&fstatvfs, "fstatvfs");
  const int result = real(fd, space);
  const Faults faults = ReadFaults();
  if (result == 0 && IsBelow(faults, fd)) Shrink(faults, *space);
  return result;
}

int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  return openat(AT_FDCWD, Redirected(path).c_str(), flags, mode);
}

}  // extern "C"
