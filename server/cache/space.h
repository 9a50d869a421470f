// Room on the filesystem of a cache, and whether a path may be used at all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

struct Filesystem {
  // The same for all paths on it and all processes that reach it: on this machine until it starts
  // anew, of a network filesystem on all machines that mount the same source.
  std::string id;
  std::string type;  // "ext4", "tmpfs", "nfs", ...; "" when not known
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;  // for this user (statvfs f_bavail)
};

// The filesystem of `path`, or of its nearest existing parent.
absl::StatusOr<Filesystem> FilesystemOf(const std::string& path);

// The source of the mount with this device number in the text of /proc/self/mountinfo, such as
// "server:/export"; "" when it is not there.
std::string MountSource(std::string_view mountinfo, uint64_t device);

// What contract.md calls SpaceCheck.
struct SpaceCheck {
  std::string cache_path;
  int64_t required_bytes = 0;
  int64_t free_bytes = 0;  // less what others have reserved
  bool sufficient = false;
  bool warning = false;  // the filesystem would end above 90 %, or the size is not known
  std::string message;
};
// `required_bytes` < 0: not known (sufficient, with a warning).
SpaceCheck CheckSpace(std::string_view cache_path, const Filesystem& filesystem,
                      int64_t required_bytes, int64_t reserved_bytes);

// INVALID_FIELD (cache_path) when `path`, below `root`, passes through a symlink on its way from
// `root` (the parts that exist), so that a custom path cannot lead out of its root.
absl::Status CheckNoSymlinks(const std::string& path, const std::string& root);

// A cache and what lies in it, for ListCaches.
struct CacheSummary {
  std::string cache_path;
  Filesystem filesystem;
  int64_t used_bytes = 0;    // allocated below hub/
  int64_t repositories = 0;  // models--* folders
};
absl::StatusOr<CacheSummary> SummarizeCache(const std::string& cache_path);

}  // namespace modeld
