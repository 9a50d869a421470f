// The part of RepoCache that measures and removes.
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/cache/cache_error.h"
#include "server/cache/folder.h"
#include "server/cache/repo_cache.h"
#include "server/cache/tree_size.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;

// Locks that are held at a time while blobs are removed.
constexpr size_t kBatch = 256;
// A link leads to a link at most so often.
constexpr int kHopsMax = 8;

// As EntriesOf, of a folder that need not be there.
absl::StatusOr<std::vector<fs::path>> EntriesIn(const std::string& folder) {
  absl::StatusOr<std::vector<fs::path>> entries = EntriesOf(folder);
  if (absl::IsNotFound(entries.status())) return std::vector<fs::path>();
  return entries;
}

// The folders of revisions. A file that somebody left among them is none.
absl::StatusOr<std::vector<fs::path>> RevisionsIn(const std::string& snapshots) {
  ASSIGN_OR_RETURN(std::vector<fs::path> entries, EntriesIn(snapshots));
  std::erase_if(entries, [](const fs::path& entry) {
    std::error_code error;
    return fs::status(entry, error).type() == fs::file_type::regular;
  });
  return entries;
}

// The blob that an entry of blobs/ belongs to: itself, or that of our part file; nothing for files
// of others, such as <blob>.<8 hex>.incomplete of huggingface_hub.
std::optional<std::string> BlobOfEntry(const std::string& name) {
  if (IsBlobName(name)) return name;
  if (!name.starts_with('.') || name.find(".modeld.part") == std::string::npos) return std::nullopt;
  const std::string blob = name.substr(1, name.find('.', 1) - 1);
  return IsBlobName(blob) ? std::optional(blob) : std::nullopt;
}

// What snapshots need of blobs/.
struct Needed {
  std::set<std::string> names;
  std::set<FileIdentity> files;  // of hard links

  bool Has(const fs::path& blob) const {
    struct stat info{};
    return names.contains(blob.filename().string()) ||
           (lstat(blob.c_str(), &info) == 0 && files.contains({info.st_dev, info.st_ino}));
  }
};

absl::Status AddNeeded(const std::string& snapshot, Needed& needed) {
  ASSIGN_OR_RETURN(const std::vector<fs::path> leaves, LeavesOf(snapshot));
  for (const fs::path& leaf : leaves) {
    fs::path at = leaf;
    for (int hop = 0; hop < kHopsMax; ++hop) {
      std::error_code error;
      const fs::path target = fs::read_symlink(at, error);
      if (error) break;
      at = (at.parent_path() / target).lexically_normal();
      needed.names.insert(at.filename().string());
    }
    struct stat info{};
    if (at == leaf && lstat(leaf.c_str(), &info) == 0 && info.st_nlink > 1) {
      needed.files.insert({info.st_dev, info.st_ino});
    }
  }
  return absl::OkStatus();
}

// What is below repo/snapshots but for `without`.
absl::StatusOr<Needed> NeededBy(const std::string& snapshots,
                                const std::set<std::string>& without) {
  Needed needed;
  ASSIGN_OR_RETURN(const std::vector<fs::path> revisions, RevisionsIn(snapshots));
  for (const fs::path& snapshot : revisions) {
    if (without.contains(snapshot.filename().string())) continue;
    RETURN_IF_ERROR(AddNeeded(snapshot.string(), needed));
  }
  return needed;
}

// Names of refs by the commit they hold.
absl::StatusOr<std::map<std::string, std::vector<fs::path>>> RefsOf(const std::string& refs) {
  std::map<std::string, std::vector<fs::path>> out;
  ASSIGN_OR_RETURN(const std::vector<fs::path> files, LeavesOf(refs));
  for (const fs::path& ref : files) {
    const absl::StatusOr<std::string> content = ReadFile(ref.string(), 1024);
    // Somebody else's ref may hold any commit.
    if (absl::IsPermissionDenied(content.status())) return content.status();
    // One with a newline names the commit too, wrong as it is.
    if (content.ok()) out[content->substr(0, 40)].push_back(ref);
  }
  return out;
}

// Refs, and then folders of refs that are empty.
absl::StatusOr<int64_t> RemoveRefs(const std::string& refs, std::string_view commit,
                                   Remover& remover) {
  int64_t freed = 0;
  ASSIGN_OR_RETURN(const auto by_commit, RefsOf(refs));
  const auto found = by_commit.find(std::string(commit));
  if (found == by_commit.end()) return 0;
  std::set<fs::path> gone;  // in a dry run they are there still
  const auto is_gone = [&](const fs::path& entry) { return gone.contains(entry); };
  for (const fs::path& ref : found->second) {
    freed += remover.Remove(ref.string());
    gone.insert(ref);
    for (fs::path folder = ref.parent_path(); folder != refs; folder = folder.parent_path()) {
      ASSIGN_OR_RETURN(const std::vector<fs::path> entries, EntriesIn(folder.string()));
      if (!std::ranges::all_of(entries, is_gone)) break;
      freed += remover.RemoveFolder(folder.string());
      gone.insert(folder);
    }
  }
  return freed;
}

std::string LockFolder(const RepoCache& repo) {
  return fs::path(repo.LockPath("x")).parent_path().string();
}

bool IsOlder(const std::string& path, std::chrono::seconds age) {
  struct stat info{};
  if (lstat(path.c_str(), &info) != 0) return false;
  const int64_t changed = std::max(info.st_mtim.tv_sec, info.st_ctim.tv_sec);
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count() - changed >= age.count();
}

bool Exists(const std::string& path) {
  struct stat info{};
  return lstat(path.c_str(), &info) == 0;
}

// Files of blobs/ that may go, by the blob they belong to.
using Candidates = std::map<std::string, std::vector<std::string>>;

// Removes candidates whose lock nobody holds and that no snapshot needs, which is looked at again
// under the lock: another program may have linked a blob since.
class BlobRemoval {
 public:
  BlobRemoval(const RepoCache& repo, bool dry_run, std::set<std::string> without)
      : repo_(repo), dry_run_(dry_run), without_(std::move(without)), remover_(dry_run) {}

  absl::StatusOr<Removal> Run(const Candidates& candidates);
  // Whether something was left because it is being written.
  bool others_write() const { return others_write_; }
  // A file that could not be removed; empty: none.
  const std::string& failed() const { return failed_; }

 private:
  bool Lock(const std::string& blob, std::vector<FileLock>& locks);
  absl::Status RemoveBatch(const std::vector<const Candidates::value_type*>& batch,
                           Removal& removal);

  const RepoCache& repo_;
  const bool dry_run_;
  const std::set<std::string> without_;  // snapshots that go
  Remover remover_;
  bool others_write_ = false;
  std::string failed_;
};

// A dry run makes no lock file: where there is none, nobody holds it.
bool BlobRemoval::Lock(const std::string& blob, std::vector<FileLock>& locks) {
  const std::string path = repo_.LockPath(blob);
  struct stat info{};
  if (dry_run_ && lstat(path.c_str(), &info) != 0) return true;
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(path);
  if (absl::IsUnavailable(lock.status())) return false;
  // A filesystem without locks, or a lock of another user: then the names must do.
  if (lock.ok()) locks.push_back(*std::move(lock));
  return true;
}

absl::Status BlobRemoval::RemoveBatch(const std::vector<const Candidates::value_type*>& batch,
                                      Removal& removal) {
  std::vector<FileLock> locks;
  std::vector<const Candidates::value_type*> free;
  for (const auto* candidate : batch) {
    if (Lock(candidate->first, locks)) {
      free.push_back(candidate);
    } else {
      others_write_ = true;
    }
  }
  ASSIGN_OR_RETURN(const Needed needed, NeededBy(repo_.repo_path() + "/snapshots", without_));
  for (const auto* candidate : free) {
    for (const std::string& path : candidate->second) {
      const bool is_blob = IsBlobName(fs::path(path).filename().string());
      if (is_blob && needed.Has(path)) continue;
      if (!Exists(path)) continue;
      const int64_t freed = remover_.Remove(path);
      if (!dry_run_ && Exists(path)) {
        failed_ = path;
        continue;
      }
      removal.entries.push_back(
          {is_blob ? RemovedKind::kBlob : RemovedKind::kPartialFile, path, freed});
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Removal> BlobRemoval::Run(const Candidates& candidates) {
  Removal removal;
  if (candidates.empty()) return removal;
  if (!dry_run_) {
    // Without it no lock could be taken; when it cannot be made there are none to respect.
    MakeDirectories(LockFolder(repo_)).IgnoreError();
  }
  std::vector<const Candidates::value_type*> batch;
  for (const auto& candidate : candidates) {
    batch.push_back(&candidate);
    if (batch.size() < kBatch) continue;
    RETURN_IF_ERROR(RemoveBatch(batch, removal));
    batch.clear();
  }
  if (!batch.empty()) RETURN_IF_ERROR(RemoveBatch(batch, removal));
  return removal;
}

absl::Status NotRemoved(const std::string& path, const std::string& cache_path) {
  return CacheError(FileError(EACCES, "remove", path), cache_path);
}

}  // namespace

absl::StatusOr<int64_t> RepoCache::SizeBytes() const {
  int64_t bytes = 0;
  ASSIGN_OR_RETURN(const std::vector<fs::path> entries, EntriesIn(blobs_path()));
  for (const fs::path& entry : entries) bytes += AllocatedBytes(entry.string());
  return bytes;
}

absl::StatusOr<Removal> RepoCache::DeleteRevision(std::string_view commit,
                                                  const DeleteOptions& options) const {
  if (!IsCommit(commit)) return InvalidField("commit", "is not 40 hex digits");
  const std::string snapshot = SnapshotPath(commit);
  const std::string snapshots = repo_path() + "/snapshots";
  const std::set<std::string> going = {std::string(commit)};
  Removal removal;
  // Before anything goes: a snapshot that cannot be read may need any blob.
  Needed linked;
  RETURN_IF_ERROR(AddNeeded(snapshot, linked));
  bool last = true;
  ASSIGN_OR_RETURN(const std::vector<fs::path> revisions, RevisionsIn(snapshots));
  for (const fs::path& other : revisions) {
    if (going.contains(other.filename().string())) continue;
    ASSIGN_OR_RETURN(const std::vector<fs::path> files, LeavesOf(other));
    last &= files.empty();
  }
  const bool there = Exists(snapshot);
  Remover remover(options.dry_run);
  ASSIGN_OR_RETURN(int64_t freed, RemoveRefs(repo_path() + "/refs", commit, remover));
  freed += remover.Remove(snapshot);
  freed += remover.Remove(repo_path() + "/trees/" + std::string(commit) + ".json");
  freed += remover.Remove(repo_path() + "/.no_exist/" + std::string(commit));
  if (!options.dry_run && Exists(snapshot)) return NotRemoved(snapshot, cache_path_);
  if (there || freed > 0) removal.entries.push_back({RemovedKind::kRevision, snapshot, freed});

  Candidates candidates;
  bool others_write = options.keep_parts;
  ASSIGN_OR_RETURN(const std::vector<fs::path> entries, EntriesIn(blobs_path()));
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    const std::optional<std::string> blob = BlobOfEntry(name);
    others_write |= !blob.has_value() && !name.starts_with(".modeld-");
    if (!blob) continue;
    const bool is_part = *blob != name;
    if (is_part ? !options.keep_parts : last || linked.names.contains(name)) {
      candidates[*blob].push_back(entry.string());
    }
  }
  BlobRemoval blobs(*this, options.dry_run, going);
  ASSIGN_OR_RETURN(const Removal of_blobs, blobs.Run(candidates));
  removal.Add(of_blobs);
  if (!blobs.failed().empty()) return NotRemoved(blobs.failed(), cache_path_);
  if (last && !others_write && !blobs.others_write()) {
    int64_t rest = 0;
    if (options.dry_run) {
      Remover all(/*dry_run=*/true);
      rest = all.Remove(repo_path()) + all.Remove(LockFolder(*this)) - removal.freed_bytes();
    } else {
      ASSIGN_OR_RETURN(rest, DeleteAll());
    }
    if (rest > 0) removal.entries.push_back({RemovedKind::kRepository, repo_path(), rest});
  }
  return removal;
}

absl::StatusOr<int64_t> RepoCache::DeleteAll() const {
  Remover remover(/*dry_run=*/false);
  int64_t freed = remover.Remove(repo_path());
  freed += remover.Remove(LockFolder(*this));
  if (Exists(repo_path())) return NotRemoved(repo_path(), cache_path_);
  return freed;
}

absl::StatusOr<Removal> RepoCache::Prune(const PruneOptions& options) const {
  Removal removal;
  const std::string snapshots = repo_path() + "/snapshots";
  std::set<std::string> gone;
  if (options.detached_revisions) {
    ASSIGN_OR_RETURN(const auto refs, RefsOf(repo_path() + "/refs"));
    ASSIGN_OR_RETURN(const std::vector<fs::path> revisions, RevisionsIn(snapshots));
    for (const fs::path& snapshot : revisions) {
      const std::string commit = snapshot.filename().string();
      if (!IsCommit(commit) || refs.contains(commit) || options.keep_revisions.contains(commit) ||
          !IsOlder(snapshot.string(), options.older_than)) {
        continue;
      }
      ASSIGN_OR_RETURN(const Removal one,
                       DeleteRevision(commit, {options.dry_run, options.keep_parts}));
      removal.Add(one);
      gone.insert(commit);
    }
  }
  // In a dry run they are there still, and counted already.
  std::set<std::string> counted;
  for (const RemovedEntry& entry : removal.entries) counted.insert(entry.path);
  ASSIGN_OR_RETURN(const Needed needed, NeededBy(snapshots, gone));
  Candidates candidates;
  Remover remover(options.dry_run);
  ASSIGN_OR_RETURN(const std::vector<fs::path> entries, EntriesIn(blobs_path()));
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    const std::optional<std::string> blob = BlobOfEntry(name);
    if (counted.contains(entry.string()) || !IsOlder(entry.string(), options.older_than)) continue;
    if (name.starts_with(".modeld-") && name.ends_with(".tmp")) {
      removal.entries.push_back(
          {RemovedKind::kPartialFile, entry.string(), remover.Remove(entry.string())});
    }
    if (!blob) continue;
    if (*blob == name ? !needed.Has(entry) : !options.keep_parts) {
      candidates[*blob].push_back(entry.string());
    }
  }
  BlobRemoval blobs(*this, options.dry_run, gone);
  ASSIGN_OR_RETURN(const Removal of_blobs, blobs.Run(candidates));
  removal.Add(of_blobs);
  if (!blobs.failed().empty()) return NotRemoved(blobs.failed(), cache_path_);
  return removal;
}

absl::StatusOr<bool> RepoCache::RemoveWrongBlob(std::string_view blob,
                                                const FileIdentity& found) const {
  RETURN_IF_ERROR(CacheError(MakeDirectories(LockFolder(*this)), cache_path_));
  const absl::StatusOr<FileLock> lock = FileLock::TryAcquire(LockPath(blob));
  if (!lock.ok()) return CacheError(lock.status(), cache_path_);
  const std::string path = BlobPath(blob);
  const std::string aside = absl::StrCat(blobs_path(), "/.modeld-", RandomHex(6), ".tmp");
  if (rename(path.c_str(), aside.c_str()) != 0) {
    if (errno == ENOENT) return false;
    return CacheError(FileError(errno, "rename", path), cache_path_);
  }
  struct stat info{};
  const bool same =
      stat(aside.c_str(), &info) == 0 && FileIdentity{info.st_dev, info.st_ino} == found;
  // Not the one that was looked at: it gets its name back, unless that has been taken again.
  if (!same) link(aside.c_str(), path.c_str());
  if (unlink(aside.c_str()) != 0) return CacheError(FileError(errno, "remove", aside), cache_path_);
  return same;
}

}  // namespace modeld
