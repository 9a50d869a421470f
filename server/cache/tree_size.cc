#include "server/cache/tree_size.h"

#include <sys/stat.h>

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>
#include <vector>

namespace modeld {
namespace {

constexpr int64_t kBlockBytes = 512;  // the unit of st_blocks, whatever the filesystem's own

std::vector<std::string> EntriesOf(const std::string& folder) {
  std::vector<std::string> out;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    out.push_back(it->path().string());
  }
  return out;
}

int64_t Allocated(const std::string& path, std::set<std::pair<dev_t, ino_t>>& counted) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) return 0;
  if (S_ISDIR(info.st_mode)) {
    int64_t bytes = info.st_blocks * kBlockBytes;
    for (const std::string& entry : EntriesOf(path)) bytes += Allocated(entry, counted);
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
