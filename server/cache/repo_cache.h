// One repository in a Hugging Face cache: where things lie, what is present, publishing and
// deleting. The layout and its rules: hub-protocol.md 2 and 9. `cache_path` is HF_HOME: the folder
// that has hub/ in it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/file.h"
#include "server/cache/removal.h"
#include "server/core/repo.h"

namespace modeld {

// Makes `cache_path` with hub/ (and CACHEDIR.TAG in it), transformers/ and xet/ when missing.
// CACHE_NOT_WRITABLE with the exact fix in its message; also on a filesystem without symbolic
// links, which can only be read.
absl::Status PrepareCache(const std::string& cache_path);

// Paths and steps of one repository. No state of its own beyond the two names; thread-safe.
class RepoCache {
 public:
  RepoCache(std::string cache_path, std::string repo_id);

  std::string hub_path() const;   // <cache>/hub
  std::string repo_path() const;  // <cache>/hub/models--org--name
  std::string blobs_path() const;
  std::string BlobPath(std::string_view blob) const;
  std::string PartPath(std::string_view blob) const;     // blobs/.<blob>.modeld.part
  std::string JournalPath(std::string_view blob) const;  // blobs/.<blob>.modeld.part.json
  std::string LockPath(std::string_view blob) const;     // .locks/models--org--name/<blob>.lock
  std::string SnapshotPath(std::string_view commit) const;

  // mkdir -p of blobs/, refs/, snapshots/<commit>/ and the lock folder.
  absl::Status Prepare(std::string_view commit) const;

  // CACHE_NOT_WRITABLE when what is there of it cannot be changed by this process.
  absl::Status CheckWritable() const;

  // Whether blobs/<blob> resolves to a file of that size (lstat, then stat).
  bool HasBlob(const RepoFile& file) const;
  // Whether snapshots/<commit>/<path> resolves to a file of that size (a link or, in caches without
  // symlinks, a file).
  bool HasInSnapshot(std::string_view commit, const RepoFile& file) const;

  // Bytes that fetching `files` would write: each missing blob once, less what its part file has.
  int64_t MissingBytes(std::string_view commit, const std::vector<RepoFile>& files) const;
  // Room that fetching `files` would still take. Less than MissingBytes() where a process that was
  // killed left a part file whose whole space is allocated already.
  int64_t SpaceNeeded(std::string_view commit, const std::vector<RepoFile>& files) const;

  // PartPath -> BlobPath: rename over, fsync of blobs/. The caller has fsynced and verified the
  // part. Never writes through an existing blob.
  absl::Status PublishBlob(std::string_view blob) const;
  // The same for a part file of another name in blobs/.
  absl::Status PublishBlob(std::string_view blob, const std::string& part_path) const;
  // The relative symlink snapshots/<commit>/<path> -> blobs/<blob>, by temporary name and rename.
  // Fine when it is there already; removes a .no_exist marker of the path.
  absl::Status Link(std::string_view commit, const RepoFile& file) const;
  // trees/<commit>.json as huggingface_hub writes it (0644); only for a complete listing.
  absl::Status WriteTree(const RepoListing& listing) const;
  // The listing of trees/<commit>.json; NOT_FOUND, or INVALID_REPOSITORY when it is broken.
  absl::StatusOr<RepoListing> ReadTree(std::string_view commit) const;
  // refs/<revision> = commit, 40 bytes, only when different; nothing for a revision that is a
  // commit.
  absl::Status WriteRef(std::string_view revision, std::string_view commit) const;
  absl::StatusOr<std::string> ReadRef(std::string_view revision) const;  // NOT_FOUND

  // Bytes on disk of blobs/ and part files.
  absl::StatusOr<int64_t> SizeBytes() const;

  // Removes snapshots/<commit> with the refs that name it and its tree, then the blobs that only it
  // linked, and our part files; the whole folder (and its lock folder) when nothing is left. What
  // others are writing now stays: *.incomplete and blobs whose lock is held. Payloads that
  // huggingface_hub shares between repositories stay too.
  absl::StatusOr<Removal> DeleteRevision(std::string_view commit,
                                         const DeleteOptions& options = {}) const;
  // The whole repository folder and its lock folder; says how many bytes were freed on disk.
  absl::StatusOr<int64_t> DeleteAll() const;
  // Removes what nobody needs: blobs that no snapshot links, our part files, and what `options`
  // say; not what others are writing now.
  absl::StatusOr<Removal> Prune(const PruneOptions& options) const;

  // Removes blobs/<blob> when it still is the file (device and inode) that was found to have wrong
  // bytes: under the blob's lock, taken aside first, so that a right one which came meanwhile
  // stays. False when it is another one by now, or gone. UNAVAILABLE while somebody writes it.
  absl::StatusOr<bool> RemoveWrongBlob(std::string_view blob, const FileIdentity& found) const;

 private:
  std::string cache_path_;
  std::string repo_id_;
};

}  // namespace modeld
