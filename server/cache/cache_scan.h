// What lies in a Hugging Face cache, whoever put it there, with the figures of huggingface_hub's
// scan_cache_dir.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace modeld {

using FileTime = std::chrono::system_clock::time_point;

// A file of a snapshot; sizes and times are those of what it resolves to.
struct CachedFile {
  std::string path;       // in the repository
  std::string blob_path;  // the first hop of its link, or the file itself
  bool linked = false;    // false: the snapshot holds the file itself
  bool shared = false;    // its blob is a link into huggingface_hub's shared store
  int64_t size_bytes = 0;
  FileTime last_accessed;
  FileTime last_modified;

  // The blob's name; empty when the snapshot holds the file itself.
  std::string blob() const;
};

struct CachedRevision {
  std::string commit;  // the name of the snapshot's folder
  std::vector<std::string> refs;
  std::string snapshot_path;
  int64_t size_bytes = 0;  // each blob once
  FileTime last_modified;
  std::vector<CachedFile> files;  // by path
};

struct CachedRepository {
  std::string type;  // "model", "dataset", "space", "kernel"
  std::string repo_id;
  std::string path;
  int64_t size_bytes = 0;  // each blob once
  int64_t file_count = 0;  // distinct blobs
  FileTime last_accessed;
  FileTime last_modified;
  std::vector<CachedRevision> revisions;  // by commit
};

// An entry that nobody can use. A repository that has one is not among the repositories.
struct CacheWarning {
  std::string path;
  std::string message;
};

struct PartialFile {
  std::string path;
  int64_t size_bytes = 0;
  bool ours = false;
};

struct CacheScan {
  std::string cache_path;
  int64_t size_bytes = 0;  // of all blobs; shared payloads once, also those that nobody links
  std::vector<CachedRepository> repositories;  // by type and id
  std::vector<CacheWarning> warnings;
  std::vector<PartialFile> partial_files;
};

// Reads `cache_path`/hub and changes nothing; a cache that is not there is empty. Only the model
// `repo_id` unless that is empty (size_bytes is then that repository's). The folder's own errors as
// base/file.h has them; entries that go away meanwhile are left out.
absl::StatusOr<CacheScan> ScanCache(const std::string& cache_path, std::string_view repo_id = "");

// The model repositories that have a folder in the cache, broken or not, sorted; none for a cache
// that is not there.
absl::StatusOr<std::vector<std::string>> ModelsIn(const std::string& cache_path);

}  // namespace modeld
