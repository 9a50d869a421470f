#include "server/download/snapshot_download.h"

#include <algorithm>
#include <latch>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/download/snapshot_progress.h"

namespace modeld {
namespace {

// Times that what others remove is fetched again.
constexpr int kRoundsMax = 20;

// A listing may come from a cache or a caller: names that would lead out of the cache are refused
// here too.
absl::Status CheckRequest(const SnapshotRequest& request) {
  RETURN_IF_ERROR(ValidateRepoId(request.repo_id));
  RETURN_IF_ERROR(ValidateRevision(request.revision));
  if (!IsCommit(request.listing.commit)) {
    return Error(Reason::kInvalidRepository,
                 "the listing of " + request.repo_id + " has no commit");
  }
  for (const RepoFile& file : request.listing.files) {
    RETURN_IF_ERROR(ValidateFilePath(file.path));
    if (!IsBlobName(file.blob) || file.size_bytes < 0) {
      return Error(Reason::kInvalidRepository,
                   absl::StrCat(file.path, " of ", request.repo_id, " has no digest or size"));
    }
  }
  return absl::OkStatus();
}

// One call of DownloadSnapshot.
class Snapshot {
 public:
  Snapshot(const SnapshotRequest& request, DownloadPool& pool, const OnProgress& on_progress)
      : request_(request),
        pool_(pool),
        repo_(request.cache_path, request.repo_id),
        files_(request.filter.Apply(request.listing.files)),
        progress_(files_, on_progress, pool.metrics(), pool.clock(), request.model_name) {}

  absl::StatusOr<SnapshotResult> Run(const Confirm& confirm, const std::stop_token& stop);

 private:
  // Whether the snapshot has every wanted file: then nothing need be written, as in a cache that is
  // read only.
  bool AllThere() const;
  // The files that share one blob.
  using Indexes = std::vector<size_t>;

  absl::Status FetchAndLink(const std::stop_token& stop, bool all_there);
  absl::Status FetchMissing(const std::stop_token& stop);
  std::vector<Indexes> FindMissing();
  absl::Status Submit(const Indexes& indexes, std::latch& settled);
  void Settle(const Indexes& indexes, const absl::StatusOr<FileResult>& result);
  void Fail(const absl::Status& status);
  absl::Status LinkAll();

  const SnapshotRequest& request_;
  DownloadPool& pool_;
  const RepoCache repo_;
  const std::vector<RepoFile> files_;
  SnapshotProgress progress_;
  std::stop_source stop_;  // of this snapshot's files: the caller's stop, or the first failure

  Mutex mutex_;
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // the first that is not a mere stop
  int64_t fetched_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

bool Snapshot::AllThere() const {
  return !files_.empty() && std::ranges::all_of(files_, [this](const RepoFile& file) {
    return repo_.HasInSnapshot(request_.listing.commit, file);
  });
}

// A cache that cannot be written keeps its listing and its refs as they are; what was asked for is
// there all the same.
absl::Status UnlessReadOnly(const absl::Status& status, bool all_there) {
  if (!all_there || !HasReason(status, Reason::kCacheNotWritable)) return status;
  LogInfo("cache_read_only", {{"error", status}});
  return absl::OkStatus();
}

absl::StatusOr<SnapshotResult> Snapshot::Run(const Confirm& confirm, const std::stop_token& stop) {
  const bool all_there = AllThere();
  const absl::Status fetched = UnlessReadOnly(FetchAndLink(stop, all_there), all_there);
  progress_.Finish();
  RETURN_IF_ERROR(fetched);
  // A listing of part of the files would make Python believe that the others do not exist.
  if (files_.size() == request_.listing.files.size()) {
    RETURN_IF_ERROR(UnlessReadOnly(repo_.WriteTree(request_.listing), all_there));
  }
  if (stop.stop_requested()) return absl::CancelledError("the download was stopped");
  if (confirm) RETURN_IF_ERROR(confirm());
  RETURN_IF_ERROR(
      UnlessReadOnly(repo_.WriteRef(request_.revision, request_.listing.commit), all_there));

  SnapshotResult result;
  result.snapshot_path = repo_.SnapshotPath(request_.listing.commit);
  result.size_bytes = TotalBytes(files_);
  MutexLock lock(mutex_);
  result.fetched_bytes = fetched_bytes_;
  return result;
}

// Python's cache commands remove blobs and whole folders under us (hub-protocol.md 9.6): what they
// took is fetched again.
absl::Status Snapshot::FetchAndLink(const std::stop_token& stop, bool all_there) {
  for (int round = 1;; ++round) {
    if (!all_there || round > 1) {
      RETURN_IF_ERROR(PrepareCache(request_.cache_path));
      RETURN_IF_ERROR(repo_.Prepare(request_.listing.commit));
    }
    absl::Status status = FetchMissing(stop);
    if (status.ok()) status = LinkAll();
    const bool removed = absl::IsNotFound(status) && ReasonOf(status).empty();
    if (!removed || round == kRoundsMax) return status;
    LogWarning("files_removed", {{"repo", request_.repo_id}, {"error", status}});
  }
}

// What is there counts from the start; the rest by size, so that no large file begins last.
std::vector<Snapshot::Indexes> Snapshot::FindMissing() {
  std::map<std::string_view, Indexes> by_blob;
  std::set<std::string_view> reused;  // of another revision, or of another program
  for (size_t i = 0; i < files_.size(); ++i) {
    const RepoFile& file = files_[i];
    const bool linked = repo_.HasInSnapshot(request_.listing.commit, file);
    if (linked || repo_.HasBlob(file)) {
      if (!linked && reused.insert(file.blob).second) {
        pool_.metrics()
            .download_reused_bytes.Add({{"model", request_.model_name}, {"source", "blob"}})
            .Increment(static_cast<double>(file.size_bytes));
      }
      pool_.metrics()
          .download_files.Add({{"model", request_.model_name}, {"result", "present"}})
          .Increment();
      progress_.Update(i, file.size_bytes, FileState::kPresent);
    } else {
      by_blob[file.blob].push_back(i);
    }
  }
  std::vector<Indexes> missing;
  missing.reserve(by_blob.size());
  for (auto& [blob, indexes] : by_blob) missing.push_back(std::move(indexes));
  std::ranges::stable_sort(missing, std::greater(), [this](const Indexes& indexes) {
    return files_[indexes.front()].size_bytes;
  });
  return missing;
}

absl::Status Snapshot::FetchMissing(const std::stop_token& stop) {
  stop_ = std::stop_source();
  {
    MutexLock lock(mutex_);
    failure_ = absl::OkStatus();
  }
  const std::stop_callback on_stop(stop, [this] { stop_.request_stop(); });
  const std::vector<Indexes> missing = FindMissing();
  std::latch settled(static_cast<std::ptrdiff_t>(missing.size()));
  for (const Indexes& indexes : missing) {
    if (absl::Status submitted = Submit(indexes, settled); !submitted.ok()) {
      Fail(submitted);
      settled.count_down();
    }
  }
  settled.wait();
  {
    MutexLock lock(mutex_);
    if (!failure_.ok()) return failure_;
  }
  if (stop_.stop_requested()) return absl::CancelledError("the download was stopped");
  return absl::OkStatus();
}

absl::Status Snapshot::Submit(const Indexes& indexes, std::latch& settled) {
  FileDownload job;
  job.model_name = request_.model_name;
  job.cache_name = request_.cache_name;
  job.cache_path = request_.cache_path;
  job.repo_id = request_.repo_id;
  job.token_credential = request_.token_credential;
  job.commit = request_.listing.commit;
  job.file = files_[indexes.front()];
  job.priority = request_.priority;
  job.limit = request_.limit;
  job.stop = stop_.get_token();
  job.on_progress = [this, index = indexes.front()](int64_t bytes_done, FileState state) {
    progress_.Update(index, bytes_done, state);
  };
  return pool_.Submit(std::move(job),
                      [this, &indexes, &settled](const absl::StatusOr<FileResult>& result) {
                        Settle(indexes, result);
                        settled.count_down();
                      });
}

// Linked at once: a blob without a link is what a deletion of another revision would take away.
void Snapshot::Settle(const Indexes& indexes, const absl::StatusOr<FileResult>& result) {
  if (!result.ok()) {
    if (absl::IsCancelled(result.status()) && stop_.stop_requested()) return;
    for (const size_t index : indexes) progress_.Fail(index);
    Fail(result.status());
    return;
  }
  for (const size_t index : indexes) {
    // Whether it can be made LinkAll() tells, with the others.
    repo_.Link(request_.listing.commit, files_[index]).IgnoreError();
    progress_.Update(index, files_[index].size_bytes,
                     result->present ? FileState::kPresent : FileState::kDone);
  }
  MutexLock lock(mutex_);
  fetched_bytes_ += result->received_bytes;
}

void Snapshot::Fail(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (failure_.ok()) failure_ = status;
  }
  stop_.request_stop();
}

absl::Status Snapshot::LinkAll() {
  for (const RepoFile& file : files_) {
    // A file that lies in the snapshot itself, as in caches without links, stays what it is.
    if (!repo_.HasBlob(file) && repo_.HasInSnapshot(request_.listing.commit, file)) continue;
    RETURN_IF_ERROR(repo_.Link(request_.listing.commit, file));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SnapshotResult> DownloadSnapshot(const SnapshotRequest& request, DownloadPool& pool,
                                                const OnProgress& on_progress,
                                                const Confirm& confirm, std::stop_token stop) {
  RETURN_IF_ERROR(CheckRequest(request));
  const auto begin = pool.clock().Steady();
  const absl::StatusOr<SnapshotResult> result =
      Snapshot(request, pool, on_progress).Run(confirm, stop);
  const char* outcome = result.ok()                          ? "succeeded"
                        : absl::IsCancelled(result.status()) ? "cancelled"
                                                             : "failed";
  pool.metrics()
      .download_duration_seconds.Add({{"result", outcome}}, TransferBuckets())
      .Observe(std::chrono::duration<double>(pool.clock().Steady() - begin).count());
  if (result.ok()) {
    LogInfo("snapshot_downloaded", {{"model", request.model_name},
                                    {"repo", request.repo_id},
                                    {"commit", request.listing.commit},
                                    {"size_bytes", result->size_bytes},
                                    {"fetched_bytes", result->fetched_bytes}});
  }
  return result;
}

}  // namespace modeld
