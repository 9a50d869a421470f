#include "server/download/file_download.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/cache/cache_error.h"
#include "server/cache/repo_cache.h"
#include "server/core/reason.h"
#include "server/curl/url.h"
#include "server/download/body_request.h"
#include "server/download/part_file.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

// How often a lock that another process holds is asked for: what huggingface_hub does.
constexpr milliseconds kLockPoll{50};
constexpr int kRedirectsMax = 20;
// Times in a row that storage may refuse a URL fresh from the hub.
constexpr int kRefusalsMax = 5;
// Ranges in a row that a server may get wrong before the file is asked for as a whole.
constexpr int kBadRangesMax = 3;
constexpr int kAttemptsAtOnePlace = 4;
// A connection that brought so much is followed by the next without a wait.
constexpr int64_t kGoodProgress = 1 << 20;
// The digest is wrong: fetched once more from nothing, then given up.
constexpr int kFetchesMax = 2;

// One call of DownloadFile. On one worker's stack.
class Download {
 public:
  Download(const FileDownload& job, const DownloadTools& tools, std::stop_token stop)
      : job_(job),
        tools_(tools),
        stop_(std::move(stop)),
        repo_(job.cache_path, job.repo_id),
        hub_repo_{job.repo_id, job.token_credential} {}

  absl::StatusOr<FileResult> Run();

 private:
  absl::StatusOr<FileResult> RunOnce();
  absl::Status AcquireLock();
  int64_t BytesOfOthers() const;
  absl::StatusOr<std::string> FetchUntilRight();
  absl::Status FetchUntilWhole();
  absl::Status Locate();
  absl::Status Follow(const BodyResult& result);
  absl::Status Refused(const BodyResult& result);
  absl::Status PauseAfter(const BodyResult& result);
  BodyResult FetchOnce();
  void CountWire(int64_t bytes);
  void Report(FileState state);
  absl::Status Cancelled() const { return absl::CancelledError("the download was stopped"); }
  absl::Status DiskError(const absl::Status& status) const;

  const FileDownload& job_;
  const DownloadTools& tools_;
  const std::stop_token stop_;
  const RepoCache repo_;
  const HubRepo hub_repo_;

  std::optional<FileLock> lock_;
  std::unique_ptr<PartFile> part_;
  std::string part_path_;
  std::string url_;         // where the body is; empty: not known (any more)
  std::string endpoint_;    // of the hub, that named url_
  bool asked_hub_ = false;  // url_ came from HubClient::Locate
  int redirects_ = 0;
  int refusals_ = 0;
  int bad_ranges_ = 0;
  int attempts_ = 0;  // in a row without progress
  std::chrono::steady_clock::time_point progress_at_;
  int64_t counted_wire_ = 0;  // received, of that counted by the metric
  int64_t received_total_ = 0;
  int64_t counted_written_ = 0;  // of the part, by the metric
};

absl::Status Download::DiskError(const absl::Status& status) const {
  const int64_t missing = job_.file.size_bytes - (part_ ? part_->written() : 0);
  return CacheError(status, job_.cache_path, missing);
}

// Python's cache commands remove whole folders under us (hub-protocol.md 9.6): then all is made
// again.
absl::StatusOr<FileResult> Download::Run() {
  constexpr int kRunsMax = 3;
  progress_at_ = tools_.clock.Steady();
  for (int run = 1;; ++run) {
    absl::StatusOr<FileResult> result = RunOnce();
    const bool removed = absl::IsNotFound(result.status()) && ReasonOf(result.status()).empty();
    if (!removed || run == kRunsMax) return result;
    LogWarning("part_removed", {{"repo", job_.repo_id}, {"error", result.status()}});
    part_.reset();
    lock_.reset();
    url_.clear();
  }
}

absl::StatusOr<FileResult> Download::RunOnce() {
  RETURN_IF_ERROR(repo_.Prepare(job_.commit));
  if (repo_.HasBlob(job_.file)) return FileResult{.present = true};
  RETURN_IF_ERROR(AcquireLock());
  if (repo_.HasBlob(job_.file)) return FileResult{.present = true};

  // Without the lock another process may be at work on the common name: a name of our own keeps
  // both right, and the rename decides.
  part_path_ = repo_.PartPath(job_.file.blob);
  if (!lock_) {
    part_path_ =
        absl::StrCat(repo_.blobs_path(), "/.", job_.file.blob, ".", RandomHex(4), ".modeld.part");
  }
  absl::StatusOr<std::unique_ptr<PartFile>> part =
      PartFile::Open(part_path_, job_.file, tools_.clock);
  if (!part.ok()) return DiskError(part.status());
  part_ = *std::move(part);
  counted_written_ = part_->written();
  Report(FileState::kDownloading);

  const absl::StatusOr<std::string> digest = FetchUntilRight();
  if (!digest.ok()) {
    if (!lock_) {
      part_->Remove();
    } else if (absl::Status kept = part_->Keep(); !kept.ok()) {
      LogWarning("part_not_kept", {{"blob", job_.file.blob}, {"error", kept}});
    }
    CountWire(0);
    return digest.status();
  }
  CountWire(0);
  RETURN_IF_ERROR(repo_.PublishBlob(job_.file.blob, part_path_));
  part_->RemoveJournal();
  Report(FileState::kDone);
  return FileResult{.present = false, .received_bytes = received_total_};
}

// Held: lock_ is set. Not had within lock_wait_max of no progress by its holder: OK without it,
// since on some network filesystems a lock outlives its process (hub-protocol.md 2.6).
absl::Status Download::AcquireLock() {
  const std::string path = repo_.LockPath(job_.file.blob);
  auto waited_since = tools_.clock.Steady();
  int64_t seen_bytes = -1;
  while (true) {
    absl::StatusOr<FileLock> lock = FileLock::TryAcquire(path);
    if (lock.ok()) {
      lock_.emplace(*std::move(lock));
      return absl::OkStatus();
    }
    if (!absl::IsUnavailable(lock.status())) return DiskError(lock.status());
    if (seen_bytes < 0) LogInfo("blob_locked", {{"blob", job_.file.blob}, {"repo", job_.repo_id}});
    if (const int64_t bytes = BytesOfOthers(); bytes != seen_bytes) {
      seen_bytes = bytes;
      waited_since = tools_.clock.Steady();
    }
    if (tools_.clock.Steady() - waited_since >= tools_.options.lock_wait_max) {
      LogWarning("blob_lock_given_up", {{"blob", job_.file.blob}, {"repo", job_.repo_id}});
      return absl::OkStatus();
    }
    if (!tools_.clock.Sleep(kLockPoll, stop_)) return Cancelled();
    if (repo_.HasBlob(job_.file)) return absl::OkStatus();
  }
}

// What the holder of the lock has written so far: its temporary file begins with the blob's name.
int64_t Download::BytesOfOthers() const {
  int64_t bytes = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it(repo_.blobs_path(), error), end; !error && it != end;
       it.increment(error)) {
    struct stat info{};
    if (it->path().filename().string().find(job_.file.blob) != std::string::npos &&
        lstat(it->path().c_str(), &info) == 0) {
      bytes += info.st_size;
    }
  }
  return bytes;
}

absl::StatusOr<std::string> Download::FetchUntilRight() {
  std::string digest;
  for (int fetch = 0; fetch < kFetchesMax; ++fetch) {
    RETURN_IF_ERROR(FetchUntilWhole());
    Report(FileState::kVerifying);
    absl::StatusOr<std::string> finished = part_->Finish();
    if (!finished.ok()) return DiskError(finished.status());
    digest = *std::move(finished);
    tools_.metrics.verify_duration_seconds.Observe(
        std::chrono::duration<double>(part_->hash_time()).count());
    if (digest == job_.file.blob) return digest;
    LogWarning("blob_digest_wrong", {{"repo", job_.repo_id},
                                     {"path", job_.file.path},
                                     {"expected", job_.file.blob},
                                     {"got", digest}});
    tools_.metrics.download_retries.Add({{"reason", "digest"}}).Increment();
    if (absl::Status restarted = part_->Restart(); !restarted.ok()) return DiskError(restarted);
    counted_written_ = 0;
    tools_.hub.SetAside(endpoint_);
    url_.clear();
  }
  return Error(Reason::kDigestMismatch,
               absl::StrCat(job_.file.path, " of ", job_.repo_id, " came twice with the digest ",
                            digest, " where the hub lists ", job_.file.blob),
               {{"path", job_.file.path}, {"expected", job_.file.blob}, {"actual", digest}});
}

absl::Status Download::FetchUntilWhole() {
  while (!part_->whole()) {
    if (url_.empty()) {
      const absl::Status located = Locate();
      const auto retry_after = DetailsOf(located).retry_after;
      if (HasReason(located, Reason::kHubUnavailable) && retry_after) {
        RETURN_IF_ERROR(PauseAfter(
            {.status = located, .reason = "hub_unavailable", .retry_after = retry_after}));
        continue;
      }
      RETURN_IF_ERROR(located);
    }
    const int64_t before = part_->received();
    const BodyResult result = FetchOnce();
    if (stop_.stop_requested()) return Cancelled();
    if (part_->received() > before) {
      progress_at_ = tools_.clock.Steady();
      attempts_ = refusals_ = bad_ranges_ = 0;
    }
    switch (result.verdict) {
      case BodyVerdict::kWhole:
        break;
      case BodyVerdict::kRedirect:
        RETURN_IF_ERROR(Follow(result));
        break;
      case BodyVerdict::kGone:
        RETURN_IF_ERROR(Refused(result));
        break;
      case BodyVerdict::kTryAgain:
        bad_ranges_ += result.reason == "bad_range" ? 1 : 0;
        RETURN_IF_ERROR(PauseAfter(result));
        break;
      case BodyVerdict::kFailed:
        return DiskError(result.status);
    }
  }
  return absl::OkStatus();
}

// LFS files are asked of the hub, whose answer names their storage; small files are at their own
// address, which saves a request for each of them.
absl::Status Download::Locate() {
  redirects_ = 0;
  if (!job_.file.lfs && !asked_hub_ && refusals_ == 0) {
    const FileLocation address = tools_.hub.AddressOf(hub_repo_, job_.commit, job_.file.path);
    url_ = address.url;
    endpoint_ = address.endpoint;
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const FileLocation location,
                   tools_.hub.Locate(hub_repo_, job_.commit, job_.file.path, {}, stop_));
  if (location.etag != job_.file.blob || location.size_bytes != job_.file.size_bytes) {
    return Error(Reason::kInvalidRepository,
                 absl::StrCat(job_.file.path, " of ", job_.repo_id, " is ", location.etag, " with ",
                              location.size_bytes, " bytes, but listed as ", job_.file.blob,
                              " with ", job_.file.size_bytes));
  }
  url_ = location.url;
  endpoint_ = location.endpoint;
  asked_hub_ = true;
  return absl::OkStatus();
}

BodyResult Download::FetchOnce() {
  const absl::StatusOr<std::string> origin = UrlOrigin(url_);
  if (!origin.ok()) return {.verdict = BodyVerdict::kFailed, .status = origin.status()};
  if (!tools_.pauses.Wait(*origin, stop_) || !tools_.slots.Take(*origin, stop_)) {
    return {.verdict = BodyVerdict::kFailed, .status = Cancelled()};
  }
  BodyRequest request;
  request.url = url_;
  // By the origin alone, whatever a redirect or a header says.
  absl::StatusOr<std::string> token = tools_.hub.TokenFor(hub_repo_, url_);
  if (!token.ok()) return {.verdict = BodyVerdict::kFailed, .status = token.status()};
  request.bearer_token = *std::move(token);
  if (absl::Status turn = tools_.hub.WaitForTurn(hub_repo_, url_, stop_); !turn.ok()) {
    return {.verdict = BodyVerdict::kFailed, .status = turn};
  }
  request.on_headers = [this](const HttpResponse& response) {
    tools_.hub.Heed(hub_repo_, url_, response);
  };
  request.connect_timeout = tools_.hub.options().connect_timeout;
  request.stall_timeout = tools_.options.stall_timeout;
  request.without_range = bad_ranges_ >= kBadRangesMax;
  const auto on_bytes = [this](int64_t n) {
    CountWire(n);
    // A stop ends the transfer by itself.
    if (tools_.limit.Wait(n, stop_) && job_.limit != nullptr) job_.limit->Wait(n, stop_);
  };
  BodyResult result = FetchBody(tools_.http, request, *part_, on_bytes, stop_);
  tools_.slots.Release(*origin);
  CountWire(0);  // while url_ still names the host
  return result;
}

absl::Status Download::Follow(const BodyResult& result) {
  if (++redirects_ > kRedirectsMax) {
    return Unavailable(Reason::kHubUnavailable,
                       absl::StrCat(job_.file.path, " of ", job_.repo_id, ": more than ",
                                    kRedirectsMax, " redirects"),
                       milliseconds(30'000));
  }
  absl::StatusOr<std::string> next = ResolveUrl(url_, result.location);
  if (!next.ok()) {
    return Error(Reason::kInvalidRepository,
                 absl::StrCat(job_.file.path, " of ", job_.repo_id, " is redirected to no URL"));
  }
  url_ = *std::move(next);
  return absl::OkStatus();
}

// 4xx. A signed URL ends after an hour, so the hub is asked for a new one; it also knows the
// precise reason (gated, gone, ...) when there is none.
absl::Status Download::Refused(const BodyResult& result) {
  tools_.metrics.download_retries.Add({{"reason", result.reason}}).Increment();
  bad_ranges_ += result.reason == "status_416" ? kBadRangesMax : 0;
  url_.clear();
  if (++refusals_ <= kRefusalsMax) {
    if (refusals_ == 1) return absl::OkStatus();
    const milliseconds wait = BackoffOf(refusals_, tools_.hub.options().backoff_base);
    return tools_.clock.Sleep(wait, stop_) ? absl::OkStatus() : Cancelled();
  }
  const std::string message = absl::StrCat(job_.file.path, " of ", job_.repo_id, ": ",
                                           std::string(result.status.message()));
  if (result.reason == "status_401" || result.reason == "status_403") {
    return Error(Reason::kHubAccessDenied, message);
  }
  return Unavailable(Reason::kHubUnavailable, message, milliseconds(30'000));
}

absl::Status Download::PauseAfter(const BodyResult& result) {
  tools_.metrics.download_retries.Add({{"reason", result.reason}}).Increment();
  LogDebug("body_again",
           {{"path", job_.file.path}, {"reason", result.reason}, {"at", part_->received()}});
  if (tools_.clock.Steady() - progress_at_ >= tools_.options.give_up_after) {
    return Unavailable(Reason::kHubUnavailable,
                       absl::StrCat(job_.file.path, " of ", job_.repo_id,
                                    " made no progress: ", std::string(result.status.message())),
                       result.retry_after.value_or(milliseconds(30'000)));
  }
  if (result.retry_after) {
    const absl::StatusOr<std::string> origin =
        UrlOrigin(url_.empty() ? tools_.hub.options().endpoint : url_);
    if (origin.ok()) tools_.pauses.Pause(*origin, *result.retry_after);
  }
  // A new place may be better than one that fails again and again.
  const bool nobody_there = result.reason == "connect" || result.reason == "resolve";
  const bool often = ++attempts_ % kAttemptsAtOnePlace == 0;
  const bool elsewhere = (often || nobody_there) && tools_.hub.SetAside(endpoint_);
  if (often || elsewhere) url_.clear();
  if (result.retry_after || result.body_bytes >= kGoodProgress) return absl::OkStatus();
  const milliseconds wait = BackoffOf(attempts_ - 1, tools_.hub.options().backoff_base);
  return tools_.clock.Sleep(wait, stop_) ? absl::OkStatus() : Cancelled();
}

// Bytes are counted by the MiB: looking up a series for each 16 KiB would cost more than the copy.
void Download::CountWire(int64_t bytes) {
  counted_wire_ += bytes;
  received_total_ += bytes;
  const int64_t written = part_->written();
  if (written > counted_written_) {
    tools_.metrics.download_bytes.Add({{"model", job_.model_name}, {"cache", job_.cache_name}})
        .Increment(static_cast<double>(written - counted_written_));
    counted_written_ = written;
    Report(FileState::kDownloading);
  }
  constexpr int64_t kStep = 1 << 20;
  if (counted_wire_ < kStep && bytes != 0) return;
  const absl::StatusOr<std::string> origin = UrlOrigin(url_);
  if (counted_wire_ == 0 || !origin.ok()) return;
  const std::string host = origin->substr(origin->find("://") + 3);
  tools_.metrics.download_wire_bytes.Add({{"model", job_.model_name}, {"host", host}})
      .Increment(static_cast<double>(counted_wire_));
  counted_wire_ = 0;
}

void Download::Report(FileState state) {
  if (!job_.on_progress) return;
  job_.on_progress(state == FileState::kDone ? job_.file.size_bytes : part_->written(), state);
}

}  // namespace

absl::StatusOr<FileResult> DownloadFile(const FileDownload& file, const DownloadTools& tools,
                                        std::stop_token stop) {
  return Download(file, tools, std::move(stop)).Run();
}

}  // namespace modeld
