#include "server/cache/tree_size.h"

#include <sys/stat.h>

#include <set>
#include <utility>

#include "server/cache/folder.h"

namespace modeld {
namespace {

constexpr int64_t kBlockBytes = 512;  // the unit of st_blocks, whatever the filesystem's own

int64_t Allocated(const std::string& path, std::set<std::pair<dev_t, ino_t>>& counted) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) return 0;
  if (S_ISDIR(info.st_mode)) {
    int64_t bytes = info.st_blocks * kBlockBytes;
    const auto entries = EntriesOf(path);
    if (!entries.ok()) return bytes;
    for (const auto& entry : *entries) bytes += Allocated(entry.string(), counted);
    return bytes;
  }
  if (info.st_nlink > 1 && !counted.insert({info.st_dev, info.st_ino}).second) return 0;
  return info.st_blocks * kBlockBytes;
}

}  // namespace

int64_t AllocatedBytes(const std::string& path) {
  std::set<std::pair<dev_t, ino_t>> counted;
  return Allocated(path, counted);
}

}  // namespace modeld
