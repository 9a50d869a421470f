#include "server/control/space_promise.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <string_view>
#include <utility>

#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

int64_t Sum(const std::vector<int64_t>& bytes) {
  return std::accumulate(bytes.begin(), bytes.end(), int64_t{0});
}

absl::StatusOr<int64_t> FreeBytes(const std::string& path) {
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(path));
  return filesystem.free_bytes;
}

}  // namespace

absl::StatusOr<int64_t> RoomFor(Tables& tables, const std::string& cache_path,
                                const std::string& except) {
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(cache_path));
  // Asked for what is free only then: bytes that are written meanwhile count twice, never not at
  // all.
  ASSIGN_OR_RETURN(const int64_t reserved, tables.reservations.Reserved(filesystem.id, except));
  ASSIGN_OR_RETURN(const int64_t free_bytes, FreeBytes(cache_path));
  return std::max<int64_t>(0, free_bytes - reserved);
}

SpacePromise::SpacePromise(Tables& tables, const Operation& operation,
                           const std::string& cache_path, const std::string& repo_id,
                           std::string commit, std::vector<RepoFile> files)
    : tables_(tables),
      operation_(operation.name),
      node_id_(operation.node_id),
      cache_path_(cache_path),
      cache_(cache_path, repo_id),
      commit_(std::move(commit)),
      files_(std::move(files)) {}

std::vector<int64_t> SpacePromise::Needed() const {
  std::vector<int64_t> needed;
  needed.reserve(files_.size());
  std::set<std::string_view> seen;
  for (const RepoFile& file : files_) {
    const int64_t bytes = cache_.SpaceNeeded(commit_, {file});
    needed.push_back(bytes > 0 && seen.insert(file.blob).second ? bytes : 0);
  }
  return needed;
}

absl::Status SpacePromise::Make() {
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(cache_path_));
  const std::vector<int64_t> needed = Needed();
  RETURN_IF_ERROR(
      tables_.reservations.Reserve({.operation = operation_,
                                    .node_id = node_id_,
                                    .filesystem = filesystem.id,
                                    .where = cache_path_,
                                    .bytes = Sum(needed),
                                    .free_bytes = [this] { return FreeBytes(cache_path_); }}));
  MutexLock lock(mutex_);
  needed_ = needed;
  return absl::OkStatus();
}

absl::Status SpacePromise::Follow(const std::vector<FileProgress>& files) {
  std::vector<int64_t> needed;
  {
    MutexLock lock(mutex_);
    needed = needed_;
  }
  // Not told yet, or of another phase.
  if (files.size() != files_.size() || needed.size() != files_.size()) return absl::OkStatus();
  for (size_t i = 0; i < files.size(); ++i) {
    if (needed[i] == 0 || files[i].state == FileState::kPending) continue;
    const bool there = files[i].state == FileState::kDone || files[i].state == FileState::kPresent;
    // One that has begun has its space allocated ahead, where the filesystem can do that.
    needed[i] = there ? 0 : cache_.SpaceNeeded(commit_, {files_[i]});
  }
  return tables_.reservations.Shrink(operation_, Sum(needed));
}

absl::Status SpacePromise::Shortage(const absl::Status& cause) const {
  ASSIGN_OR_RETURN(const int64_t room, RoomFor(tables_, cache_path_, operation_));
  return WithContext(InsufficientBytes(Reason::kInsufficientDisk, cache_path_, Sum(Needed()), room),
                     std::string(cause.message()));
}

}  // namespace modeld
