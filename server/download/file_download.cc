#include "server/download/file_download.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/cache/cache_error.h"
#include "server/core/reason.h"
#include "server/curl/url.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

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
// The folder was removed under us: so often all is begun anew.
constexpr int kRunsMax = 3;
// What a slow connection has gathered is written after so long.
constexpr milliseconds kGatherTime{500};
constexpr int64_t kHashTurn = 4 << 20;

std::string HostOf(const std::string& origin) {
  const size_t at = origin.find("://");
  return at == std::string::npos ? origin : origin.substr(at + 3);
}

}  // namespace

// What one connection has received and not yet written.
class FileTransfer::Gathered {
 public:
  Gathered(FileTransfer& transfer, PartFile& part, std::span<char> buffer, int64_t offset,
           std::string origin)
      : transfer_(transfer),
        part_(part),
        buffer_(buffer),
        offset_(offset),
        origin_(std::move(origin)) {}

  absl::Status Add(std::span<const char> data) {
    while (!data.empty()) {
      const size_t n = std::min(data.size(), buffer_.size() - size_);
      std::memcpy(buffer_.data() + size_, data.data(), n);
      size_ += n;
      data = data.subspan(n);
      if (size_ == buffer_.size()) RETURN_IF_ERROR(Write());
    }
    const bool old = std::chrono::steady_clock::now() - written_at_ >= kGatherTime;
    return old ? Write() : absl::OkStatus();
  }

  absl::Status Write() {
    written_at_ = std::chrono::steady_clock::now();
    if (size_ == 0) return absl::OkStatus();
    const auto size = static_cast<int64_t>(std::exchange(size_, 0));
    const absl::StatusOr<int64_t> written =
        part_.Write(offset_, buffer_.first(static_cast<size_t>(size)));
    offset_ += size;
    transfer_.Count(origin_, size, written.value_or(0), written.ok() ? "refetched" : "unwritten");
    written_ += written.value_or(0);
    if (written.ok()) transfer_.Report(FileState::kDownloading);
    return written.status();
  }

  int64_t written() const { return written_; }

 private:
  FileTransfer& transfer_;
  PartFile& part_;
  const std::span<char> buffer_;
  int64_t offset_;
  const std::string origin_;
  size_t size_ = 0;
  int64_t written_ = 0;
  std::chrono::steady_clock::time_point written_at_ = std::chrono::steady_clock::now();
};

FileTransfer::FileTransfer(const FileDownload& job, const DownloadTools& tools,
                           std::stop_token stop)
    : job_(job),
      tools_(tools),
      stop_(std::move(stop)),
      repo_(job.cache_path, job.repo_id),
      hub_repo_{job.repo_id, job.token_credential},
      lock_waited_since_(tools.clock.Steady()),
      progress_at_(tools.clock.Steady()) {}

std::shared_ptr<PartFile> FileTransfer::part() const {
  MutexLock lock(mutex_);
  return part_;
}

absl::Status FileTransfer::DiskError(const absl::Status& status) const {
  const std::shared_ptr<PartFile> part = this->part();
  const int64_t missing = job_.file.size_bytes - (part ? part->written() : 0);
  return CacheError(status, job_.cache_path, missing);
}

absl::StatusOr<FileTransfer::Opened> FileTransfer::Open() {
  RETURN_IF_ERROR(repo_.Prepare(job_.commit));
  if (repo_.HasBlob(job_.file)) return Opened::kPresent;
  ASSIGN_OR_RETURN(const bool go_on, Lock());
  if (!go_on) return Opened::kLocked;
  if (repo_.HasBlob(job_.file)) return Opened::kPresent;

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
  if ((*part)->reused() > 0) {
    tools_.metrics.download_reused_bytes.Add({{"model", job_.model_name}, {"source", "resume"}})
        .Increment(static_cast<double>((*part)->reused()));
  }
  {
    MutexLock lock(mutex_);
    part_ = *std::move(part);
    progress_at_ = tools_.clock.Steady();
  }
  Report(FileState::kDownloading);
  return Opened::kReady;
}

// True with the lock, and also without it where there are none, and when it was not had within
// lock_wait_max of no progress by its holder: on some network filesystems a lock outlives its
// process (hub-protocol.md 2.6).
absl::StatusOr<bool> FileTransfer::Lock() {
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(job_.file.blob));
  if (lock.ok()) {
    lock_.emplace(*std::move(lock));
    return true;
  }
  if (absl::IsUnimplemented(lock.status())) {
    LogWarning("blob_lock_missing", {{"blob", job_.file.blob}, {"error", lock.status()}});
    return true;
  }
  if (!absl::IsUnavailable(lock.status())) return DiskError(lock.status());
  const Time now = tools_.clock.Steady();
  if (others_bytes_ < 0) {
    LogInfo("blob_locked", {{"blob", job_.file.blob}, {"repo", job_.repo_id}});
    Report(FileState::kPending);
  }
  // Reading a large folder 20 times a second would cost more than it tells.
  if (others_bytes_ < 0 || now - others_seen_at_ >= tools_.options.lock_wait_max / 20) {
    others_seen_at_ = now;
    if (const int64_t bytes = BytesOfOthers(); bytes != others_bytes_) {
      others_bytes_ = bytes;
      lock_waited_since_ = now;
    }
  }
  if (now - lock_waited_since_ < tools_.options.lock_wait_max) return false;
  LogWarning("blob_lock_given_up", {{"blob", job_.file.blob}, {"repo", job_.repo_id}});
  return true;
}

// What the holder of the lock has written so far: its temporary file begins with the blob's name.
int64_t FileTransfer::BytesOfOthers() const {
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

bool FileTransfer::needs_place() const {
  MutexLock lock(mutex_);
  return place_.url.empty();
}

std::string FileTransfer::origin() const {
  MutexLock lock(mutex_);
  return place_.origin;
}

FileTransfer::Time FileTransfer::ready_at() const {
  MutexLock lock(mutex_);
  return std::max(not_before_, tools_.pauses.Until(place_.origin));
}

bool FileTransfer::sequential() const {
  MutexLock lock(mutex_);
  return without_range_;
}

bool FileTransfer::whole() const {
  const std::shared_ptr<PartFile> part = this->part();
  return part && part->whole();
}

std::vector<ByteRange> FileTransfer::Missing() const {
  const std::shared_ptr<PartFile> part = this->part();
  return part ? part->Missing() : std::vector<ByteRange>{{0, job_.file.size_bytes}};
}

absl::Status FileTransfer::SyncIfDue() {
  const std::shared_ptr<PartFile> part = this->part();
  return part ? part->SyncIfDue() : absl::OkStatus();
}

absl::Status FileTransfer::SetPlace(const std::string& url, const std::string& endpoint) {
  absl::StatusOr<std::string> origin = UrlOrigin(url);
  if (!origin.ok()) return Error(Reason::kInvalidRepository, Name() + " is at no URL");
  place_ = {
      .url = url, .origin = *std::move(origin), .endpoint = endpoint, .number = place_.number + 1};
  return absl::OkStatus();
}

// LFS files are asked of the hub, whose answer names their storage; small files are at their own
// address, which saves a request for each of them.
absl::Status FileTransfer::Locate() {
  {
    MutexLock lock(mutex_);
    redirects_ = 0;
    if (!job_.file.lfs && !asked_hub_ && refusals_ == 0) {
      const FileLocation address = tools_.hub.AddressOf(hub_repo_, job_.commit, job_.file.path);
      return SetPlace(address.url, address.endpoint);
    }
  }
  const absl::StatusOr<FileLocation> location =
      tools_.hub.Locate(hub_repo_, job_.commit, job_.file.path, {}, stop_);
  MutexLock lock(mutex_);
  // Without a time to come back there is no use in waiting: the hub's client is offline.
  if (HasReason(location.status(), Reason::kHubUnavailable) &&
      DetailsOf(location.status()).retry_after) {
    // The hub's client has waited for what the hub asked for.
    return PauseAfter({.status = location.status(), .reason = "hub_unavailable"});
  }
  RETURN_IF_ERROR(location.status());
  if (location->etag != job_.file.blob || location->size_bytes != job_.file.size_bytes) {
    return Error(
        Reason::kInvalidRepository,
        absl::StrCat(Name(), " is ", location->etag, " with ", location->size_bytes,
                     " bytes, but listed as ", job_.file.blob, " with ", job_.file.size_bytes));
  }
  asked_hub_ = true;
  return SetPlace(location->url, location->endpoint);
}

absl::Status FileTransfer::Fetch(HttpClient& http, std::span<char> buffer, Segment& segment) {
  const std::shared_ptr<PartFile> part = this->part();
  if (!part) return absl::OkStatus();  // another connection found it removed
  Place place;
  BodyRequest request;
  {
    MutexLock lock(mutex_);
    place = place_;
    request.without_range = without_range_;
  }
  if (place.url.empty()) return absl::OkStatus();  // another connection found it gone meanwhile
  request.url = place.url;
  // By the origin alone, whatever a redirect or a header says.
  ASSIGN_OR_RETURN(request.bearer_token, tools_.hub.TokenFor(hub_repo_, place.url));
  request.connect_timeout = tools_.hub.options().connect_timeout;
  request.stall_timeout = tools_.options.stall_timeout;
  request.range = segment.range;
  request.size_bytes = job_.file.size_bytes;

  const std::stop_callback of_file(stop_, [&segment] { segment.stop.request_stop(); });
  const std::stop_token stop = segment.stop.get_token();
  if (absl::Status turn = tools_.hub.WaitForTurn(hub_repo_, place.url, stop); !turn.ok()) {
    return Judge({.verdict = BodyVerdict::kFailed, .status = turn}, place, segment);
  }
  request.on_headers = [&](const HttpResponse& response) {
    tools_.hub.Heed(hub_repo_, place.url, response);
  };
  Gathered gathered(*this, *part, buffer, segment.range.begin, place.origin);
  int64_t not_wanted = 0;  // what another connection has taken over
  BodyResult result = FetchBody(
      http, request,
      [&](std::span<const char> data) {
        const int64_t at = segment.range.begin + segment.received.load(std::memory_order_relaxed);
        const int64_t end = segment.end.load();
        const auto wanted = static_cast<size_t>(std::max<int64_t>(0, end - at));
        if (data.size() > wanted) {
          not_wanted += static_cast<int64_t>(data.size() - wanted);
          data = data.first(wanted);
        }
        const auto bytes = static_cast<int64_t>(data.size());
        segment.received.fetch_add(bytes, std::memory_order_relaxed);
        if (!job_.small()) tools_.large_bytes.fetch_add(bytes, std::memory_order_relaxed);
        RETURN_IF_ERROR(gathered.Add(data));
        if (at + bytes >= end && end < segment.range.end) {
          segment.stop.request_stop();  // another connection brings the rest
        }
        // A stop ends the transfer here: what the socket still holds would come without the limit.
        const bool go_on =
            tools_.limit.Wait(bytes, stop) && (!job_.limit || job_.limit->Wait(bytes, stop));
        return go_on ? absl::OkStatus() : Cancelled();
      },
      stop);
  if (const int64_t thrown_away = result.skipped_bytes + not_wanted; thrown_away > 0) {
    Count(place.origin, thrown_away, 0, "refetched");
  }
  // What came stays, whatever ended it.
  if (const absl::Status rest = gathered.Write(); !rest.ok()) {
    result.verdict = BodyVerdict::kFailed;
    result.status = rest;
  }
  segment.written = gathered.written();
  return Judge(result, place, segment);
}

absl::Status FileTransfer::Judge(const BodyResult& result, const Place& place, Segment& segment) {
  if (stop_.stop_requested()) return Cancelled();
  if (result.verdict == BodyVerdict::kFailed) {
    const bool ended_alone = segment.stop.stop_requested() && absl::IsCancelled(result.status);
    return ended_alone ? absl::OkStatus() : DiskError(result.status);
  }
  MutexLock lock(mutex_);
  if (segment.written > 0) {
    progress_at_ = tools_.clock.Steady();
    attempts_ = refusals_ = bad_ranges_ = 0;
  }
  // Of a place that another connection has given up already nothing more is to be learnt.
  const bool current = place.number == place_.number && !place_.url.empty();
  switch (result.verdict) {
    case BodyVerdict::kRedirect:
      return current ? Follow(result, place) : absl::OkStatus();
    case BodyVerdict::kGone:
      return current ? Refused(result) : absl::OkStatus();
    case BodyVerdict::kTryAgain:
      segment.refused = result.reason == "status_429" || result.reason == "status_503" ||
                        result.reason == "connect";
      bad_ranges_ += result.reason == "bad_range" ? 1 : 0;
      without_range_ |= result.reason == "range_ignored" || bad_ranges_ >= kBadRangesMax;
      return PauseAfter(result);
    case BodyVerdict::kWhole:
    case BodyVerdict::kFailed:
      break;
  }
  return absl::OkStatus();
}

absl::Status FileTransfer::Follow(const BodyResult& result, const Place& place) {
  if (++redirects_ > kRedirectsMax) {
    return Unavailable(Reason::kHubUnavailable,
                       absl::StrCat(Name(), ": more than ", kRedirectsMax, " redirects"),
                       milliseconds(30'000));
  }
  absl::StatusOr<std::string> next = ResolveUrl(place.url, result.location);
  if (!next.ok()) return Error(Reason::kInvalidRepository, Name() + " is redirected to no URL");
  return SetPlace(*next, place.endpoint);
}

// 4xx. A signed URL ends after an hour, so the hub is asked for a new one; it also knows the
// precise reason (gated, gone, ...) when there is none.
absl::Status FileTransfer::Refused(const BodyResult& result) {
  tools_.metrics.download_retries.Add({{"reason", result.reason}}).Increment();
  without_range_ |= result.reason == "status_416";
  place_.url.clear();
  if (++refusals_ <= kRefusalsMax) {
    if (refusals_ > 1) {
      not_before_ = tools_.clock.Steady() + BackoffOf(refusals_, tools_.hub.options().backoff_base);
    }
    return absl::OkStatus();
  }
  const std::string message = absl::StrCat(Name(), ": ", std::string(result.status.message()));
  if (result.reason == "status_401" || result.reason == "status_403") {
    return Error(Reason::kHubAccessDenied, message);
  }
  return Unavailable(Reason::kHubUnavailable, message, milliseconds(30'000));
}

absl::Status FileTransfer::PauseAfter(const BodyResult& result) {
  const Time now = tools_.clock.Steady();
  tools_.metrics.download_retries.Add({{"reason", result.reason}}).Increment();
  LogDebug("body_again", {{"path", job_.file.path}, {"reason", result.reason}});
  if (now - progress_at_ >= tools_.options.give_up_after) {
    return Unavailable(
        Reason::kHubUnavailable,
        absl::StrCat(Name(), " made no progress: ", std::string(result.status.message())),
        result.retry_after.value_or(milliseconds(30'000)));
  }
  if (result.retry_after) tools_.pauses.Pause(place_.origin, *result.retry_after);
  // A new place may be better than one that fails again and again.
  const bool nobody_there = result.reason == "connect" || result.reason == "resolve";
  const bool often = ++attempts_ % kAttemptsAtOnePlace == 0;
  const bool elsewhere = (often || nobody_there) && tools_.hub.SetAside(place_.endpoint);
  if (often || elsewhere) place_.url.clear();
  if (result.retry_after || result.taken_bytes >= kGoodProgress) return absl::OkStatus();
  not_before_ = now + BackoffOf(attempts_ - 1, tools_.hub.options().backoff_base);
  return absl::OkStatus();
}

bool FileTransfer::Reopens(const absl::Status& error) {
  if (!absl::IsNotFound(error) || !ReasonOf(error).empty()) return false;
  MutexLock lock(mutex_);
  if (!part_ && runs_ > 1) return true;  // another connection has seen it too
  if (runs_ >= kRunsMax) return false;
  ++runs_;
  LogWarning("part_removed", {{"repo", job_.repo_id}, {"error", error}});
  lock_.reset();
  part_.reset();
  place_.url.clear();
  return true;
}

absl::StatusOr<bool> FileTransfer::Finish() {
  const std::shared_ptr<PartFile> part = this->part();
  Report(FileState::kVerifying);
  while (part->hashed() < part->size_bytes()) {
    if (stop_.stop_requested()) return Cancelled();
    const int64_t before = part->hashed();
    if (absl::Status hashed = part->HashBehind(kHashTurn); !hashed.ok()) return DiskError(hashed);
    if (part->hashed() == before) return absl::DataLossError(part->path() + " lost its digest");
  }
  if (absl::Status synced = part->Sync(); !synced.ok()) return DiskError(synced);
  const std::string digest = part->Digest();
  tools_.metrics.verify_duration_seconds.Observe(
      std::chrono::duration<double>(part->hash_time()).count());
  if (digest == job_.file.blob) {
    RETURN_IF_ERROR(repo_.PublishBlob(job_.file.blob, part_path_));
    part->RemoveJournal();
    Report(FileState::kDone);
    return true;
  }
  LogWarning("blob_digest_wrong", {{"repo", job_.repo_id},
                                   {"path", job_.file.path},
                                   {"expected", job_.file.blob},
                                   {"got", digest}});
  tools_.metrics.download_retries.Add({{"reason", "digest"}}).Increment();
  if (absl::Status restarted = part->Restart(); !restarted.ok()) return DiskError(restarted);
  if (++fetches_ == kFetchesMax) {
    return Error(Reason::kDigestMismatch,
                 absl::StrCat(Name(), " came twice with the digest ", digest,
                              " where the hub lists ", job_.file.blob),
                 {{"path", job_.file.path}, {"expected", job_.file.blob}, {"actual", digest}});
  }
  MutexLock lock(mutex_);
  tools_.hub.SetAside(place_.endpoint);
  place_.url.clear();
  return false;
}

void FileTransfer::Close() {
  const std::shared_ptr<PartFile> part = this->part();
  if (part && !lock_) {
    part->Remove();
  } else if (part) {
    const absl::Status kept = part->Keep();
    if (!kept.ok()) LogWarning("part_not_kept", {{"blob", job_.file.blob}, {"error", kept}});
  }
  lock_.reset();
}

// Everything received was written or is counted as discarded.
void FileTransfer::Count(const std::string& origin, int64_t received, int64_t written,
                         const char* discarded_for) {
  received_bytes_ += received;
  tools_.metrics.download_wire_bytes.Add({{"model", job_.model_name}, {"host", HostOf(origin)}})
      .Increment(static_cast<double>(received));
  if (written > 0) {
    tools_.metrics.download_bytes.Add({{"model", job_.model_name}, {"cache", job_.cache_name}})
        .Increment(static_cast<double>(written));
  }
  if (received > written) {
    tools_.metrics.download_discarded_bytes
        .Add({{"model", job_.model_name}, {"reason", discarded_for}})
        .Increment(static_cast<double>(received - written));
  }
}

void FileTransfer::Report(FileState state) {
  if (!job_.on_progress) return;
  MutexLock lock(report_mutex_);
  const std::shared_ptr<PartFile> part = this->part();
  const int64_t bytes = part ? part->written() : 0;
  job_.on_progress(state == FileState::kDone ? job_.file.size_bytes : bytes, state);
}

}  // namespace modeld
