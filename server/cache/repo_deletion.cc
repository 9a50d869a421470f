// The part of RepoCache that measures and removes.
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "server/base/file.h"
#include "server/base/status.h"
#include "server/cache/cache_error.h"
#include "server/cache/repo_cache.h"
#include "server/cache/tree_size.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> EntriesOf(const std::string& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    out.push_back(it->path());
  }
  return out;
}

// Everything below `folder` that is no folder.
std::vector<fs::path> LeavesOf(const std::string& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code of_entry;
    if (it->is_symlink(of_entry) || !it->is_directory(of_entry)) out.push_back(it->path());
  }
  return out;
}

// The blob that an entry of blobs/ belongs to: itself, or that of our part file; nothing for files
// of others, such as <blob>.<8 hex>.incomplete of huggingface_hub.
std::optional<std::string> BlobOfEntry(const std::string& name) {
  if (IsBlobName(name)) return name;
  if (!name.starts_with('.') || name.find(".modeld.part") == std::string::npos) return std::nullopt;
  const std::string blob = name.substr(1, name.find('.', 1) - 1);
  return IsBlobName(blob) ? std::optional(blob) : std::nullopt;
}

// Refs, and then folders of refs that are empty.
int64_t RemoveRefs(const std::string& refs, std::string_view commit) {
  int64_t freed = 0;
  for (const fs::path& ref : LeavesOf(refs)) {
    const absl::StatusOr<std::string> content = ReadFile(ref.string(), 1024);
    if (!content.ok() || !content->starts_with(commit)) continue;
    freed += RemoveTree(ref.string());
    for (fs::path folder = ref.parent_path(); folder != refs; folder = folder.parent_path()) {
      const int64_t folder_bytes = AllocatedBytes(folder.string());
      if (rmdir(folder.c_str()) != 0) break;
      freed += folder_bytes;
    }
  }
  return freed;
}

}  // namespace

absl::StatusOr<int64_t> RepoCache::SizeBytes() const {
  int64_t bytes = 0;
  for (const fs::path& entry : EntriesOf(blobs_path())) bytes += AllocatedBytes(entry.string());
  return bytes;
}

absl::StatusOr<int64_t> RepoCache::DeleteRevision(std::string_view commit) const {
  if (!IsCommit(commit)) return InvalidField("commit", "is not 40 hex digits");
  int64_t freed = RemoveRefs(repo_path() + "/refs", commit);
  freed += RemoveTree(SnapshotPath(commit));
  freed += RemoveTree(repo_path() + "/trees/" + std::string(commit) + ".json");
  freed += RemoveTree(repo_path() + "/.no_exist/" + std::string(commit));
  struct stat info{};
  if (lstat(SnapshotPath(commit).c_str(), &info) == 0) {
    return CacheError(FileError(EACCES, "remove", SnapshotPath(commit)), cache_path_);
  }
  const std::vector<fs::path> snapshots = LeavesOf(repo_path() + "/snapshots");
  std::set<std::string> linked;
  for (const fs::path& leaf : snapshots) {
    std::error_code error;
    linked.insert(fs::read_symlink(leaf, error).filename().string());
  }
  bool others_write = false;
  for (const fs::path& entry : EntriesOf(blobs_path())) {
    const std::string name = entry.filename().string();
    const std::optional<std::string> blob = BlobOfEntry(name);
    others_write |= !blob.has_value() && !name.starts_with(".modeld-");
    if (!blob || linked.contains(*blob)) continue;
    // Held through the removal: a download that begins now finds a missing blob, not half of one.
    const absl::StatusOr<FileLock> lock = FileLock::TryAcquire(LockPath(*blob));
    if (absl::IsUnavailable(lock.status())) {
      others_write = true;
      continue;
    }
    freed += RemoveTree(entry.string());
  }
  if (snapshots.empty() && !others_write) {
    ASSIGN_OR_RETURN(const int64_t rest, DeleteAll());
    freed += rest;
  }
  return freed;
}

absl::StatusOr<int64_t> RepoCache::DeleteAll() const {
  int64_t freed = RemoveTree(repo_path());
  freed += RemoveTree(fs::path(LockPath("x")).parent_path().string());
  struct stat info{};
  if (lstat(repo_path().c_str(), &info) == 0) {
    return CacheError(FileError(EACCES, "remove", repo_path()), cache_path_);
  }
  return freed;
}

}  // namespace modeld
