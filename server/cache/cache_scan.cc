#include "server/cache/cache_scan.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/cache/folder.h"
#include "server/core/repo.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;

// The prefix of a repository's folder and its type, as huggingface_hub has them.
constexpr std::array<std::pair<std::string_view, const char*>, 4> kTypes = {
    {{"datasets", "dataset"}, {"kernels", "kernel"}, {"models", "model"}, {"spaces", "space"}}};

// What file managers leave everywhere.
bool IsDebris(std::string_view name) {
  return name == ".DS_Store" || name == "Thumbs.db" || name == "desktop.ini";
}

FileTime ToTime(const timespec& time) {
  return FileTime(std::chrono::duration_cast<FileTime::duration>(
      std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec)));
}

bool IsFolder(const fs::path& path) {
  struct stat info{};
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// Whether `path` itself is a file, no link to one.
bool IsPlainFile(const fs::path& path) {
  struct stat info{};
  return lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

// Links to folders are of no program that keeps to the layout.
absl::StatusOr<std::vector<fs::path>> FilesBelow(const fs::path& folder) {
  ASSIGN_OR_RETURN(std::vector<fs::path> files, LeavesOf(folder));
  std::erase_if(files, IsFolder);
  return files;
}

// "acme--model" as "acme/model".
std::string IdOf(std::string_view folder) {
  std::string id(folder);
  for (size_t at = 0; (at = id.find("--", at)) != std::string::npos; ++at) id.replace(at, 2, "/");
  return id;
}

// huggingface_hub's store of payloads that several repositories share: hub/blobs, when it is marked
// as one.
class SharedStore {
 public:
  explicit SharedStore(const fs::path& hub) : folder_(hub / "blobs") {
    const fs::path marker = folder_ / ".huggingface-shared-blobs";
    if (!IsPlainFile(marker)) return;
    const absl::StatusOr<std::string> version = ReadFile(marker.string(), 64);
    marked_ = version.ok() && *version == "1\n";
  }

  bool marked() const { return marked_; }

  // Whether `blob` is a link to a payload of the store.
  bool Holds(const fs::path& blob) const {
    std::error_code error;
    const fs::path target = fs::read_symlink(blob, error);
    if (error || !marked_) return false;
    return IsPayload((blob.parent_path() / target).lexically_normal());
  }

  int64_t PayloadBytes() const {
    int64_t bytes = 0;
    if (!marked_) return bytes;
    std::error_code error;
    for (fs::recursive_directory_iterator it(folder_, error), end; !error && it != end;
         it.increment(error)) {
      struct stat info{};
      if (IsPayload(it->path()) && stat(it->path().c_str(), &info) == 0) bytes += info.st_size;
    }
    return bytes;
  }

 private:
  // <store>/<first two digits>/<64 digits>, a file.
  bool IsPayload(const fs::path& path) const {
    const std::string name = path.filename().string();
    const fs::path prefix = path.parent_path();
    return name.size() == 64 && IsBlobName(name) && prefix.filename() == name.substr(0, 2) &&
           prefix.parent_path() == folder_ && IsPlainFile(path);
  }

  const fs::path folder_;
  bool marked_ = false;
};

// One repository's folder. What makes it unusable ends the reading: `broken` has the warning.
class RepositoryReader {
 public:
  RepositoryReader(const fs::path& path, const SharedStore& store) : path_(path), store_(store) {}

  // Nothing when it is broken or gone.
  std::optional<CachedRepository> Read();

  std::optional<CacheWarning> broken;
  // Bytes of the blobs that are the repository's own.
  int64_t own_bytes = 0;

 private:
  bool ReadName(CachedRepository& repository);
  bool ReadRefs();
  bool ReadRevision(const fs::path& folder, CachedRepository& repository);
  bool ReadFileOf(const fs::path& file, CachedRevision& revision);
  bool Broken(const fs::path& path, const std::string& message) {
    broken = {path.string(), message};
    return false;
  }

  const fs::path path_;
  const SharedStore& store_;
  std::map<std::string, std::vector<std::string>> refs_;  // commit -> names
  struct Blob {
    struct stat info{};
    bool shared = false;
  };
  std::map<std::string, Blob> blobs_;  // by path
};

bool RepositoryReader::ReadName(CachedRepository& repository) {
  const std::string name = path_.filename().string();
  if (!IsFolder(path_)) return Broken(path_, "is no folder, as a repository would be");
  const size_t dashes = name.find("--");
  const auto type = std::ranges::find(kTypes, std::string_view(name).substr(0, dashes),
                                      [](const auto& entry) { return entry.first; });
  if (dashes == std::string::npos || type == kTypes.end()) {
    return Broken(path_, "is not named as a repository is");
  }
  repository.type = type->second;
  repository.path = path_.string();
  repository.repo_id = IdOf(std::string_view(name).substr(dashes + 2));
  return true;
}

bool RepositoryReader::ReadRefs() {
  const fs::path refs = path_ / "refs";
  struct stat info{};
  if (stat(refs.c_str(), &info) != 0) return true;
  if (!S_ISDIR(info.st_mode)) return Broken(refs, "is no folder");
  const auto files = FilesBelow(refs);
  if (!files.ok()) return Broken(refs, std::string(files.status().message()));
  for (const fs::path& file : *files) {
    if (IsDebris(file.filename().string())) continue;
    const absl::StatusOr<std::string> commit = ReadFile(file.string(), 4096);
    if (!commit.ok()) return Broken(file, std::string(commit.status().message()));
    refs_[*commit].push_back(file.lexically_relative(refs).string());
  }
  return true;
}

bool RepositoryReader::ReadFileOf(const fs::path& file, CachedRevision& revision) {
  CachedFile cached;
  cached.path = file.lexically_relative(revision.snapshot_path).string();
  std::error_code error;
  const fs::path target = fs::read_symlink(file, error);
  cached.linked = !error;
  cached.blob_path =
      cached.linked ? (file.parent_path() / target).lexically_normal().string() : file.string();
  const auto [blob, is_new] = blobs_.try_emplace(cached.blob_path);
  if (is_new) {
    if (stat(cached.blob_path.c_str(), &blob->second.info) != 0) {
      return Broken(file, absl::StrCat("is a link to ", cached.blob_path, ", which is not there"));
    }
    blob->second.shared = store_.Holds(cached.blob_path);
    if (!blob->second.shared) own_bytes += blob->second.info.st_size;
  }
  const struct stat& info = blob->second.info;
  cached.shared = blob->second.shared;
  cached.size_bytes = info.st_size;
  cached.last_accessed = ToTime(info.st_atim);
  cached.last_modified = ToTime(info.st_mtim);
  revision.files.push_back(std::move(cached));
  return true;
}

bool RepositoryReader::ReadRevision(const fs::path& folder, CachedRepository& repository) {
  struct stat info{};
  if (stat(folder.c_str(), &info) != 0) return true;  // gone meanwhile
  if (!S_ISDIR(info.st_mode)) return Broken(folder, "is a file among the snapshots");
  CachedRevision revision;
  revision.commit = folder.filename().string();
  revision.snapshot_path = folder.string();
  const auto files = FilesBelow(folder);
  if (!files.ok()) return Broken(folder, std::string(files.status().message()));
  for (const fs::path& file : *files) {
    if (!ReadFileOf(file, revision)) return false;
  }
  std::set<std::string_view> counted;
  for (const CachedFile& file : revision.files) {
    revision.last_modified = std::max(revision.last_modified, file.last_modified);
    if (counted.insert(file.blob_path).second) revision.size_bytes += file.size_bytes;
  }
  if (revision.files.empty()) revision.last_modified = ToTime(info.st_mtim);
  if (const auto names = refs_.extract(revision.commit); !names.empty()) {
    revision.refs = names.mapped();
  }
  repository.revisions.push_back(std::move(revision));
  return true;
}

std::optional<CachedRepository> RepositoryReader::Read() {
  CachedRepository repository;
  if (!ReadName(repository)) return std::nullopt;
  const fs::path snapshots = path_ / "snapshots";
  if (!IsFolder(snapshots)) {
    Broken(snapshots, "is not there, as it is in every repository");
    return std::nullopt;
  }
  if (!ReadRefs()) return std::nullopt;
  const auto folders = EntriesOf(snapshots);
  if (!folders.ok()) {
    Broken(snapshots, std::string(folders.status().message()));
    return std::nullopt;
  }
  for (const fs::path& folder : *folders) {
    if (!IsDebris(folder.filename().string()) && !ReadRevision(folder, repository)) {
      return std::nullopt;
    }
  }
  if (!refs_.empty()) {
    const auto& [commit, names] = *refs_.begin();
    Broken(path_ / "refs" / names.front(),
           absl::StrCat("names the commit \"", commit.substr(0, 100), "\", which has no snapshot"));
    return std::nullopt;
  }
  for (const auto& [path, blob] : blobs_) {
    repository.size_bytes += blob.info.st_size;
    repository.last_accessed = std::max(repository.last_accessed, ToTime(blob.info.st_atim));
    repository.last_modified = std::max(repository.last_modified, ToTime(blob.info.st_mtim));
  }
  repository.file_count = std::ssize(blobs_);
  struct stat info{};
  if (blobs_.empty() && stat(path_.c_str(), &info) == 0) {
    repository.last_accessed = ToTime(info.st_atim);
    repository.last_modified = ToTime(info.st_mtim);
  }
  return repository;
}

void AddPartialFiles(const fs::path& repository, std::vector<PartialFile>& out) {
  std::error_code error;
  for (fs::directory_iterator it(repository / "blobs", error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    const bool ours = name.starts_with('.') && name.ends_with(".modeld.part");
    struct stat info{};
    if ((ours || name.ends_with(".incomplete")) && stat(it->path().c_str(), &info) == 0) {
      out.push_back({.path = it->path().string(), .size_bytes = info.st_size, .ours = ours});
    }
  }
}

}  // namespace

std::string CachedFile::blob() const {
  return linked ? fs::path(blob_path).filename().string() : std::string();
}

absl::StatusOr<CacheScan> ScanCache(const std::string& cache_path, std::string_view repo_id) {
  CacheScan scan;
  scan.cache_path = cache_path;
  const fs::path hub = fs::path(cache_path) / "hub";
  struct stat info{};
  if (lstat(hub.c_str(), &info) != 0 && errno == ENOENT) return scan;
  const SharedStore store(hub);
  ASSIGN_OR_RETURN(std::vector<fs::path> entries, EntriesOf(hub));
  if (!repo_id.empty()) {
    std::erase_if(entries,
                  [&](const fs::path& entry) { return entry.filename() != RepoFolder(repo_id); });
  }
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    if (IsDebris(name) || name == ".locks" || name == "CACHEDIR.TAG") continue;
    if (name == "blobs" && store.marked()) continue;
    AddPartialFiles(entry, scan.partial_files);
    RepositoryReader reader(entry, store);
    std::optional<CachedRepository> repository = reader.Read();
    // Gone while it was read: then nothing is wrong with it.
    if (!repository && lstat(entry.c_str(), &info) != 0) continue;
    if (repository) {
      scan.size_bytes += reader.own_bytes;
      scan.repositories.push_back(*std::move(repository));
    } else if (reader.broken) {
      scan.warnings.push_back(*std::move(reader.broken));
    }
  }
  if (repo_id.empty()) {
    scan.size_bytes += store.PayloadBytes();
  } else if (!scan.repositories.empty()) {
    scan.size_bytes = scan.repositories.front().size_bytes;
  }
  std::ranges::sort(scan.repositories, {},
                    [](const CachedRepository& r) { return std::pair(r.type, r.repo_id); });
  std::ranges::sort(scan.partial_files, {}, &PartialFile::path);
  return scan;
}

absl::StatusOr<std::vector<std::string>> ModelsIn(const std::string& cache_path) {
  constexpr std::string_view kPrefix = "models--";
  std::vector<std::string> ids;
  const fs::path hub = fs::path(cache_path) / "hub";
  struct stat info{};
  if (lstat(hub.c_str(), &info) != 0 && errno == ENOENT) return ids;
  ASSIGN_OR_RETURN(const std::vector<fs::path> entries, EntriesOf(hub));
  for (const fs::path& entry : entries) {
    const std::string name = entry.filename().string();
    if (!name.starts_with(kPrefix) || !IsFolder(entry)) continue;
    std::string id = IdOf(std::string_view(name).substr(kPrefix.size()));
    if (ValidateRepoId(id).ok()) ids.push_back(std::move(id));
  }
  return ids;
}

}  // namespace modeld
