// The room that a download still needs, promised to it in the database until its bytes are there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/cache/repo_cache.h"
#include "server/cache/space.h"
#include "server/control/tables.h"
#include "server/core/operation.h"
#include "server/core/repo.h"

namespace modeld {

// What an operation still has to allocate on the filesystem of its cache counts as taken for all
// others, of this daemon and of all that share the database; what it has allocated the filesystem
// itself counts. Ends in the database, with the operation, not with this object. Thread-safe.
class SpacePromise {
 public:
  // `files` of `commit` are what it fetches. `tables` outlives it.
  SpacePromise(Tables& tables, const Operation& operation, const std::string& cache_path,
               const std::string& repo_id, std::string commit, std::vector<RepoFile> files);

  // Reserves what the files still take now, bytes of part files not counted. INSUFFICIENT_DISK with
  // both figures; ABORTED when the operation has ended.
  absl::Status Make();
  // Lowers it to what is missing by now; `files` is the progress of the files it was made for, in
  // their order.
  absl::Status Follow(const std::vector<FileProgress>& files);
  // INSUFFICIENT_DISK with what is missing in all and what is free for it now, after a write failed
  // with `cause`. Errors of the database and of the filesystem are handed on.
  absl::Status Shortage(const absl::Status& cause) const;

 private:
  // What each file takes that has not begun; files that share a blob take it once.
  std::vector<int64_t> Needed() const;

  Tables& tables_;
  const std::string operation_;
  const std::string node_id_;
  const std::string cache_path_;
  const RepoCache cache_;
  const std::string commit_;
  const std::vector<RepoFile> files_;

  Mutex mutex_;
  std::vector<int64_t> needed_ ABSL_GUARDED_BY(mutex_);  // when it was made
};

// Free bytes on the filesystem of `cache_path` less what operations other than `except` have
// reserved there; never below 0.
absl::StatusOr<int64_t> RoomFor(Tables& tables, const std::string& cache_path,
                                const std::string& except);

}  // namespace modeld
