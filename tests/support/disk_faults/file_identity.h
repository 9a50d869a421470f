// Which file it is, whatever its name: what the preloaded library writes down and power_cut looks
// for.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>

#include <string>

namespace modeld {

// "DEVICE:INODE:BIRTH" of an open file, or of `path` relative to `fd`; inode numbers are used
// again, so that the time of birth belongs to it. "" when it is not there.
inline std::string FileIdentity(int fd, const char* path = "") {
  struct statx info{};
  const int flags = *path == '\0' ? AT_EMPTY_PATH : AT_SYMLINK_NOFOLLOW;
  if (statx(fd, path, flags, STATX_INO | STATX_BTIME, &info) != 0) return "";
  return std::to_string(info.stx_dev_major) + "." + std::to_string(info.stx_dev_minor) + ":" +
         std::to_string(info.stx_ino) + ":" + std::to_string(info.stx_btime.tv_sec) + "." +
         std::to_string(info.stx_btime.tv_nsec);
}

}  // namespace modeld
