// One blob from the hub into blobs/: lock, part file, where its bytes are, requests for them,
// digest, name. The pool says which connection does what; this is how it is done.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/cache/repo_cache.h"
#include "server/curl/http_client.h"
#include "server/download/body_request.h"
#include "server/download/download_pool.h"
#include "server/download/part_file.h"
#include "server/download/rate_limit.h"
#include "server/download/retry.h"
#include "server/download/segment.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"

namespace modeld {

// What the transfers of a pool share; all of it outlives them.
struct DownloadTools {
  HubClient& hub;
  HostPauses& pauses;
  RateLimit& limit;  // of all downloads
  Metrics& metrics;
  Clock& clock;
  const DownloadPool::Options& options;
  std::atomic<int64_t>& large_bytes;  // received, of files that are not small
};

// What was written stays for the next transfer of the blob, whatever ends this one. Open(),
// Finish() and Close() are for one thread while no other is at work here; the rest is thread-safe.
// Everything ends soon after `stop` with CANCELLED.
class FileTransfer {
 public:
  using Time = std::chrono::steady_clock::time_point;

  FileTransfer(const FileDownload& job, const DownloadTools& tools, std::stop_token stop);

  // kLocked: another process is at work on the blob; try again in kLockPoll.
  enum class Opened { kReady, kPresent, kLocked };
  static constexpr std::chrono::milliseconds kLockPoll{50};
  absl::StatusOr<Opened> Open();

  // Asks where the bytes are; needed before a Fetch() when needs_place().
  absl::Status Locate();
  bool needs_place() const;
  std::string origin() const;  // of that place
  Time ready_at() const;       // no request before: a pause after a failure, or a busy host
  bool sequential() const;     // one request after the other: ranges do not work there

  bool whole() const;
  std::vector<ByteRange> Missing() const;
  // Fetches a segment as far as it goes, gathering in `buffer`; an error is final for the file.
  absl::Status Fetch(HttpClient& http, std::span<char> buffer, Segment& segment);
  // After a final error: whether all is to be opened anew, since other programs' cache commands
  // remove folders under us (hub-protocol.md 9.6).
  bool Reopens(const absl::Status& error);

  // Checks the digest and gives the blob its name. False: the bytes were wrong and are forgotten.
  absl::StatusOr<bool> Finish();
  // Keeps what there is, when it has not its name.
  void Close();
  absl::Status SyncIfDue();

  int64_t received_bytes() const { return received_bytes_.load(); }
  void Report(FileState state);

 private:
  // Where the body is. `number` grows with each new place.
  struct Place {
    std::string url;  // empty: not known (any more)
    std::string origin;
    std::string endpoint;  // of the hub, that named it
    int64_t number = 0;
  };
  class Gathered;

  std::shared_ptr<PartFile> part() const;
  absl::StatusOr<bool> Lock();
  int64_t BytesOfOthers() const;
  absl::Status SetPlace(const std::string& url, const std::string& endpoint)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Judge(const BodyResult& result, const Place& place, Segment& segment);
  absl::Status Follow(const BodyResult& result, const Place& place)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Refused(const BodyResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PauseAfter(const BodyResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Count(const std::string& origin, int64_t received, int64_t written,
             const char* discarded_for);
  absl::Status Cancelled() const { return absl::CancelledError("the download was stopped"); }
  absl::Status DiskError(const absl::Status& status) const;
  std::string Name() const { return job_.file.path + " of " + job_.repo_id; }

  const FileDownload& job_;
  const DownloadTools& tools_;
  const std::stop_token stop_;
  const RepoCache repo_;
  const HubRepo hub_repo_;

  // Of the one thread.
  std::optional<FileLock> lock_;
  std::string part_path_;
  int runs_ = 1;
  int fetches_ = 0;
  Time lock_waited_since_{};
  Time others_seen_at_{};
  int64_t others_bytes_ = -1;

  std::atomic<int64_t> received_bytes_{0};
  Mutex report_mutex_;  // one report at a time, in order
  mutable Mutex mutex_;
  std::shared_ptr<PartFile> part_ ABSL_GUARDED_BY(mutex_);
  Place place_ ABSL_GUARDED_BY(mutex_);
  bool asked_hub_ ABSL_GUARDED_BY(mutex_) = false;  // the place came from HubClient::Locate
  bool without_range_ ABSL_GUARDED_BY(mutex_) = false;
  int redirects_ ABSL_GUARDED_BY(mutex_) = 0;
  int refusals_ ABSL_GUARDED_BY(mutex_) = 0;
  int bad_ranges_ ABSL_GUARDED_BY(mutex_) = 0;
  int attempts_ ABSL_GUARDED_BY(mutex_) = 0;  // in a row without progress
  Time progress_at_ ABSL_GUARDED_BY(mutex_);
  Time not_before_ ABSL_GUARDED_BY(mutex_){};
};

}  // namespace modeld
