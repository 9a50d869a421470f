#include "server/cache/removal.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <system_error>

namespace modeld {
namespace {

constexpr int64_t kBlockBytes = 512;  // the unit of st_blocks, whatever the filesystem's own

}  // namespace

int64_t Removal::freed_bytes() const {
  int64_t bytes = 0;
  for (const RemovedEntry& entry : entries) bytes += entry.freed_bytes;
  return bytes;
}

void Removal::Add(const Removal& other) {
  entries.insert(entries.end(), other.entries.begin(), other.entries.end());
}

int64_t Remover::Remove(const std::string& path) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) return 0;
  if (!S_ISDIR(info.st_mode)) {
    if (!dry_run_ && unlink(path.c_str()) != 0) return 0;
    // A dry run leaves the count of names as it is, so that it is compared with all of them.
    const uint64_t names = dry_run_ ? ++names_[{info.st_dev, info.st_ino}] : 1;
    return names == info.st_nlink ? info.st_blocks * kBlockBytes : 0;
  }
  std::vector<std::string> entries;
  std::error_code error;
  for (std::filesystem::directory_iterator it(path, error), end; !error && it != end;
       it.increment(error)) {
    entries.push_back(it->path().string());
  }
  int64_t freed = 0;
  for (const std::string& entry : entries) freed += Remove(entry);
  if (dry_run_ || rmdir(path.c_str()) == 0) freed += info.st_blocks * kBlockBytes;
  return freed;
}

int64_t Remover::RemoveFolder(const std::string& path) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) return 0;
  if (!dry_run_ && rmdir(path.c_str()) != 0) return 0;
  return info.st_blocks * kBlockBytes;
}

}  // namespace modeld
