// What is removed from a cache, and what that gave back.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace modeld {

// The numbers are those of the proto.
enum class RemovedKind { kBlob = 1, kPartialFile = 2, kRevision = 3, kRepository = 4 };

struct RemovedEntry {
  RemovedKind kind = RemovedKind::kBlob;
  std::string path;
  int64_t freed_bytes = 0;
};

struct Removal {
  std::vector<RemovedEntry> entries;

  int64_t freed_bytes() const;
  void Add(const Removal& other);
};

struct DeleteOptions {
  bool dry_run = false;     // only say what would go
  bool keep_parts = false;  // an operation will go on with our part files
};

struct PruneOptions {
  bool dry_run = false;
  bool keep_parts = false;
  bool detached_revisions = false;       // snapshots that no ref names go too, but for:
  std::set<std::string> keep_revisions;  // commits
  std::chrono::seconds older_than{600};  // what changed later stays: between two steps of others
};

// Which file a path named at some time.
struct FileIdentity {
  dev_t device = 0;
  ino_t inode = 0;

  auto operator<=>(const FileIdentity&) const = default;
};

// Removes files and folders, or only counts what that would free. One thread at a time.
class Remover {
 public:
  explicit Remover(bool dry_run) : dry_run_(dry_run) {}

  // `path` and all below it, without following links; says how many bytes that frees on disk: a
  // file with another hard link frees none, the last of several frees them. What cannot be removed
  // stays and is not counted.
  int64_t Remove(const std::string& path);
  // An empty folder; 0 when it is not empty.
  int64_t RemoveFolder(const std::string& path);

 private:
  const bool dry_run_;
  std::map<FileIdentity, uint64_t> names_;  // removed so far, for files with several
};

}  // namespace modeld
