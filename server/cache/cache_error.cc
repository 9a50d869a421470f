#include "server/cache/cache_error.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "server/base/status.h"
#include "server/cache/space.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

bool IsReadOnlyMount(const std::string& path) {
  struct statvfs info{};
  return statvfs(path.c_str(), &info) == 0 && (info.f_flag & ST_RDONLY) != 0;
}

}  // namespace

absl::Status CacheError(const absl::Status& status, const std::string& cache_path,
                        int64_t required_bytes) {
  if (!ReasonOf(status).empty()) return status;
  if (absl::IsPermissionDenied(status)) {
    const std::string uid = std::to_string(geteuid());
    const std::string fix =
        IsReadOnlyMount(cache_path)
            ? "its filesystem is read-only for this process: mount it writable, and under systemd "
              "run `systemctl edit modeld` and add `[Service]`, `ReadWritePaths=" +
                  cache_path + "`"
            : "run `chown -R " + uid + " " + cache_path + "`, or choose another cache path";
    return Error(Reason::kCacheNotWritable,
                 absl::StrCat("the cache ", cache_path, " cannot be written by uid ", uid, " (",
                              std::string(status.message()), "): ", fix),
                 {{"cache_path", cache_path}});
  }
  if (absl::IsResourceExhausted(status)) {
    const absl::StatusOr<Filesystem> filesystem = FilesystemOf(cache_path);
    return WithContext(InsufficientBytes(Reason::kInsufficientDisk, cache_path, required_bytes,
                                         filesystem.ok() ? filesystem->free_bytes : 0),
                       std::string(status.message()));
  }
  return status;
}

}  // namespace modeld
