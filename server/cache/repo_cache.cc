#include "server/cache/repo_cache.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/cache/cache_error.h"
#include "server/cache/part_journal.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using nlohmann::json;

// The first line is what backup programs look for (bford.info/cachedir); the rest is for people.
constexpr std::string_view kCacheDirTag =
    "Signature: 8a477f597d28d172789f06886806bc55\n"
    "# This file is a cache directory tag created by modeld.\n"
    "# For information about cache directory tags, see:\n"
    "#\thttps://bford.info/cachedir/\n";

// A listing of 200,000 files has about 60 MB.
constexpr int64_t kTreeBytesMax = 256 << 20;

std::string ParentOf(const std::string& path) {
  return std::filesystem::path(path).parent_path().string();
}

bool Exists(const std::string& path) {
  struct stat info{};
  return lstat(path.c_str(), &info) == 0;
}

bool IsFileOfSize(const std::string& path, int64_t size_bytes) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_size == size_bytes;
}

absl::Status MakeAll(const std::vector<std::string>& folders, const std::string& cache_path) {
  for (const std::string& folder : folders) {
    if (absl::Status made = MakeDirectories(folder); !made.ok()) {
      return CacheError(made, cache_path);
    }
  }
  return absl::OkStatus();
}

// INVALID_REPOSITORY when a folder between `snapshot` and `path` is a link: a file below it would
// be made somewhere else.
absl::Status CheckParents(const std::string& snapshot, std::string_view path) {
  for (size_t at = path.find('/'); at != std::string_view::npos; at = path.find('/', at + 1)) {
    const std::string folder = absl::StrCat(snapshot, "/", std::string(path.substr(0, at)));
    struct stat info{};
    if (lstat(folder.c_str(), &info) != 0) return absl::OkStatus();
    if (!S_ISDIR(info.st_mode)) {
      return Error(Reason::kInvalidRepository,
                   absl::StrCat(folder, " is in the way of the file ", std::string(path)));
    }
  }
  return absl::OkStatus();
}

// Snapshots are made of links, so that a filesystem without them is known before the first byte.
// Tried beside the locks, where no scan looks.
absl::Status CheckLinks(const std::string& cache_path) {
  const std::string folder = cache_path + "/hub/.locks";
  RETURN_IF_ERROR(MakeAll({folder}, cache_path));
  const std::string probe = absl::StrCat(folder, "/.modeld-", RandomHex(6), ".tmp");
  if (symlink("probe", probe.c_str()) == 0) {
    unlink(probe.c_str());
    return absl::OkStatus();
  }
  if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL) {
    return CacheError(FileError(errno, "symlink", probe), cache_path);
  }
  return Error(Reason::kCacheNotWritable,
               absl::StrCat("the filesystem of the cache ", cache_path,
                            " has no symbolic links, which snapshots are made of: choose a cache "
                            "path on another one, or mount it with links (cifs: option "
                            "mfsymlinks). What is in it already can be adopted and loaded"),
               {{"cache_path", cache_path}});
}

json TreeEntry(const RepoFile& file) {
  json entry = {{"blob_id", file.git_oid}, {"size", file.size_bytes}};
  if (file.lfs) {
    entry["lfs_sha256"] = file.blob;
    entry["lfs_size"] = file.size_bytes;
  }
  if (!file.xet_hash.empty()) entry["xet_hash"] = file.xet_hash;
  return entry;
}

RepoFile FileOfTree(const std::string& path, const json& entry) {
  RepoFile file;
  file.path = path;
  file.size_bytes = entry.at("size").get<int64_t>();
  file.git_oid = entry.at("blob_id").get<std::string>();
  file.lfs = entry.contains("lfs_sha256");
  file.blob = file.lfs ? entry.at("lfs_sha256").get<std::string>() : file.git_oid;
  file.xet_hash = entry.value("xet_hash", "");
  return file;
}

}  // namespace

absl::Status PrepareCache(const std::string& cache_path) {
  const std::string hub = cache_path + "/hub";
  RETURN_IF_ERROR(MakeAll({hub, cache_path + "/transformers", cache_path + "/xet"}, cache_path));
  if (access(hub.c_str(), W_OK | X_OK) != 0) {
    return CacheError(FileError(errno, "write", hub), cache_path);
  }
  RETURN_IF_ERROR(CheckLinks(cache_path));
  const std::string tag = hub + "/CACHEDIR.TAG";
  if (Exists(tag)) return absl::OkStatus();
  return CacheError(WriteFileAtomically(tag, kCacheDirTag), cache_path);
}

RepoCache::RepoCache(std::string cache_path, std::string repo_id)
    : cache_path_(std::move(cache_path)), repo_id_(std::move(repo_id)) {}

std::string RepoCache::hub_path() const { return cache_path_ + "/hub"; }
std::string RepoCache::repo_path() const { return hub_path() + "/" + RepoFolder(repo_id_); }
std::string RepoCache::blobs_path() const { return repo_path() + "/blobs"; }

std::string RepoCache::BlobPath(std::string_view blob) const {
  return absl::StrCat(blobs_path(), "/", std::string(blob));
}

std::string RepoCache::PartPath(std::string_view blob) const {
  return absl::StrCat(blobs_path(), "/.", std::string(blob), ".modeld.part");
}

std::string RepoCache::JournalPath(std::string_view blob) const { return PartPath(blob) + ".json"; }

std::string RepoCache::LockPath(std::string_view blob) const {
  return absl::StrCat(hub_path(), "/.locks/", RepoFolder(repo_id_), "/", std::string(blob),
                      ".lock");
}

std::string RepoCache::SnapshotPath(std::string_view commit) const {
  return absl::StrCat(repo_path(), "/snapshots/", std::string(commit));
}

absl::Status RepoCache::Prepare(std::string_view commit) const {
  return MakeAll(
      {blobs_path(), repo_path() + "/refs", SnapshotPath(commit), ParentOf(LockPath("x"))},
      cache_path_);
}

absl::Status RepoCache::CheckWritable() const {
  for (const std::string& folder : {repo_path(), blobs_path(), repo_path() + "/snapshots"}) {
    if (access(folder.c_str(), W_OK | X_OK) == 0 || errno == ENOENT) continue;
    return CacheError(FileError(errno, "write", folder), cache_path_);
  }
  return absl::OkStatus();
}

bool RepoCache::HasBlob(const RepoFile& file) const {
  return IsFileOfSize(BlobPath(file.blob), file.size_bytes);
}

bool RepoCache::HasInSnapshot(std::string_view commit, const RepoFile& file) const {
  return IsFileOfSize(absl::StrCat(SnapshotPath(commit), "/", file.path), file.size_bytes);
}

int64_t RepoCache::MissingBytes(std::string_view commit, const std::vector<RepoFile>& files) const {
  std::set<std::string_view> seen;
  int64_t missing = 0;
  for (const RepoFile& file : files) {
    if (HasInSnapshot(commit, file) || HasBlob(file) || !seen.insert(file.blob).second) continue;
    missing += file.size_bytes;
    const absl::StatusOr<PartJournal> journal = ReadPartJournal(JournalPath(file.blob));
    if (!journal.ok() || journal->blob != file.blob || journal->size_bytes != file.size_bytes ||
        !Exists(PartPath(file.blob))) {
      continue;
    }
    for (const ByteRange& range : journal->Trusted()) missing -= range.end - range.begin;
  }
  return missing;
}

int64_t RepoCache::SpaceNeeded(std::string_view commit, const std::vector<RepoFile>& files) const {
  std::set<std::string_view> seen;
  int64_t needed = 0;
  for (const RepoFile& file : files) {
    if (HasInSnapshot(commit, file) || HasBlob(file) || !seen.insert(file.blob).second) continue;
    struct stat info{};
    const bool begun = lstat(PartPath(file.blob).c_str(), &info) == 0;
    needed += std::max<int64_t>(0, file.size_bytes - (begun ? info.st_blocks * 512 : 0));
  }
  return needed;
}

absl::Status RepoCache::PublishBlob(std::string_view blob) const {
  return PublishBlob(blob, PartPath(blob));
}

absl::Status RepoCache::PublishBlob(std::string_view blob, const std::string& part_path) const {
  const std::string path = BlobPath(blob);
  if (rename(part_path.c_str(), path.c_str()) != 0) {
    return CacheError(FileError(errno, "rename", path), cache_path_);
  }
  return SyncDirectory(blobs_path());
}

absl::Status RepoCache::Link(std::string_view commit, const RepoFile& file) const {
  RETURN_IF_ERROR(ValidateFilePath(file.path));
  if (!HasBlob(file)) return absl::NotFoundError("blob " + BlobPath(file.blob) + " is gone");
  const std::string snapshot = SnapshotPath(commit);
  const std::string path = absl::StrCat(snapshot, "/", file.path);
  std::string target = "../../";
  for (const char c : file.path) {
    if (c == '/') target += "../";
  }
  absl::StrAppend(&target, "blobs/", file.blob);

  unlink(absl::StrCat(repo_path(), "/.no_exist/", std::string(commit), "/", file.path).c_str());
  std::error_code error;
  if (std::filesystem::read_symlink(path, error).string() == target) return absl::OkStatus();
  RETURN_IF_ERROR(CheckParents(snapshot, file.path));
  if (absl::Status made = MakeDirectories(ParentOf(path)); !made.ok()) {
    return CacheError(made, cache_path_);
  }
  // Made in blobs/, where a leftover of a killed process disturbs no scan of the snapshots.
  const std::string temporary = absl::StrCat(blobs_path(), "/.modeld-", RandomHex(6), ".tmp");
  if (symlink(target.c_str(), temporary.c_str()) != 0) {
    return CacheError(FileError(errno, "symlink", temporary), cache_path_);
  }
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const int failed = errno;
    unlink(temporary.c_str());
    if (failed == EISDIR) {
      return Error(Reason::kInvalidRepository,
                   absl::StrCat("a folder is in the way of the file ", file.path));
    }
    return CacheError(FileError(failed, "rename", path), cache_path_);
  }
  return absl::OkStatus();
}

absl::Status RepoCache::WriteTree(const RepoListing& listing) const {
  json files = json::object();
  for (const RepoFile& file : listing.files) files[file.path] = TreeEntry(file);
  // nlohmann::json sorts keys by their bytes, which for UTF-8 is Python's order of code points.
  const std::string text =
      json{{"files", std::move(files)}, {"format_version", 1}}.dump(1, ' ', /*ensure_ascii=*/true);
  const std::string path = repo_path() + "/trees/" + listing.commit + ".json";
  const absl::StatusOr<std::string> old = ReadFile(path, kTreeBytesMax);
  if (old.ok() && *old == text) return absl::OkStatus();
  RETURN_IF_ERROR(MakeAll({repo_path() + "/trees"}, cache_path_));
  RETURN_IF_ERROR(CacheError(WriteFileAtomically(path, text), cache_path_));
  // Past the umask: what all may read in blobs/ all should find in the listing.
  if (chmod(path.c_str(), 0644) != 0) return FileError(errno, "chmod", path);
  return absl::OkStatus();
}

absl::StatusOr<RepoListing> RepoCache::ReadTree(std::string_view commit) const {
  const std::string path = absl::StrCat(repo_path(), "/trees/", std::string(commit), ".json");
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kTreeBytesMax));
  const auto broken = [&](std::string_view why) {
    return Error(Reason::kInvalidRepository,
                 absl::StrCat("the listing ", path, " is broken: ", std::string(why)));
  };
  RepoListing listing;
  listing.commit = commit;
  try {
    const json tree = json::parse(text);
    if (tree.at("format_version") != 1) return broken("its version is not 1");
    for (const auto& [file_path, entry] : tree.at("files").items()) {
      listing.files.push_back(FileOfTree(file_path, entry));
      const RepoFile& file = listing.files.back();
      RETURN_IF_ERROR(ValidateFilePath(file.path));
      if (!IsBlobName(file.blob) || file.size_bytes < 0) return broken("a file has no digest");
    }
  } catch (const json::exception& e) {
    return broken(e.what());
  }
  return listing;
}

absl::Status RepoCache::WriteRef(std::string_view revision, std::string_view commit) const {
  if (IsCommit(revision)) return absl::OkStatus();
  RETURN_IF_ERROR(ValidateRevision(revision));
  const std::string path = absl::StrCat(repo_path(), "/refs/", std::string(revision));
  const absl::StatusOr<std::string> old = ReadFile(path, 1024);
  if (old.ok() && *old == commit) return absl::OkStatus();
  if (absl::Status made = MakeDirectories(ParentOf(path)); !made.ok()) {
    return CacheError(made, cache_path_);
  }
  return CacheError(WriteFileAtomically(path, commit), cache_path_);
}

absl::StatusOr<std::string> RepoCache::ReadRef(std::string_view revision) const {
  RETURN_IF_ERROR(ValidateRevision(revision));
  const std::string path = absl::StrCat(repo_path(), "/refs/", std::string(revision));
  ASSIGN_OR_RETURN(std::string commit, ReadFile(path, 1024));
  if (!IsCommit(commit)) {
    return Error(Reason::kInvalidRepository, path + " does not hold a commit of 40 hex digits");
  }
  return commit;
}

}  // namespace modeld
