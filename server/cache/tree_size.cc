#include "server/cache/tree_size.h"

#include <sys/stat.h>

#include <filesystem>
#include <system_error>
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

}  // namespace

int64_t AllocatedBytes(const std::string& path) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) return 0;
  int64_t bytes = info.st_blocks * kBlockBytes;
  if (!S_ISDIR(info.st_mode)) return bytes;
  for (const std::string& entry : EntriesOf(path)) bytes += AllocatedBytes(entry);
  return bytes;
}

}  // namespace modeld
