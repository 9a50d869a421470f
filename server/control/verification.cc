#include "server/control/verification.h"

#include <fcntl.h>
#include <linux/ioprio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <latch>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/cache/removal.h"
#include "server/cache/repo_cache.h"
#include "server/core/reason.h"
#include "server/download/blob_digest.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;

constexpr int kHashThreads = 2;
constexpr int64_t kReadBytes = 1 << 20;
constexpr std::chrono::milliseconds kTellEvery{100};
// How long a lock that another program holds on a wrong blob is waited for.
constexpr std::chrono::seconds kLockWaitMax{60};
constexpr std::chrono::milliseconds kLockPoll{50};

absl::Status Stopped() { return absl::CancelledError("the verification was stopped"); }

// Readers that people wait for go first. Where the kernel refuses, they go together.
void LowerIoPriority() {
  constexpr int kThisThread = 0;
  constexpr int kLowestBestEffort = 7;
  syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, kThisThread,
          IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, kLowestBestEffort));
}

// The files that one read answers for: one expected blob and one file on disk.
struct Check {
  RepoFile file;                   // path: one of `paths`
  std::vector<std::string> paths;  // in the repository
  std::string source;              // what is read; empty: nothing is there
  FileIdentity identity;           // of what is read
  int64_t source_bytes = 0;
  std::string digest;  // of what is read
  bool right = false;
};

// One call of VerifySnapshot.
class Verification {
 public:
  Verification(const VerifyJob& job, HubClient& hub, DownloadPool& pool, const OnVerified& on_event,
               std::stop_token stop)
      : job_(job),
        hub_(hub),
        pool_(pool),
        on_event_(on_event),
        stop_(std::move(stop)),
        repo_(job.cache_path, job.repo_id) {}

  absl::Status Run();

 private:
  absl::Status Collect();
  void CollectListed(const std::set<std::string>& there);
  absl::Status CollectLinked(const std::set<std::string>& there);
  void Add(const RepoFile& file);
  absl::Status HashAll();
  absl::Status Hash(Check& check);
  absl::Status HashAgain(Check& check);
  void Settle(const Check& check);
  absl::Status RepairAll();
  absl::StatusOr<bool> RemoveWrong(Check& check);
  absl::StatusOr<bool> MakeRoomFor(Check& check);
  void Fetch(Check& check, std::latch& settled);
  absl::Status Finish(Check& check, const FileResult& result);
  void AddBytes(int64_t bytes);
  void Tell(const VerifyEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Fail(const absl::Status& status);
  std::string SnapshotFile(const std::string& path) const {
    return absl::StrCat(repo_.SnapshotPath(job_.commit), "/", path);
  }

  const VerifyJob& job_;
  HubClient& hub_;
  DownloadPool& pool_;
  const OnVerified& on_event_;
  const std::stop_token stop_;
  const RepoCache repo_;
  std::vector<Check> checks_;
  std::map<std::pair<std::string, FileIdentity>, size_t> index_;  // of checks_
  std::vector<std::string> extra_;

  Mutex mutex_;
  VerifyEvent now_ ABSL_GUARDED_BY(mutex_);  // the totals
  std::chrono::steady_clock::time_point told_at_ ABSL_GUARDED_BY(mutex_);
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);  // the first
};

void Verification::Add(const RepoFile& file) {
  const std::string path = SnapshotFile(file.path);
  Check check{.file = file};
  struct stat info{};
  if (stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode)) {
    check.source = path;
    check.identity = {info.st_dev, info.st_ino};
    check.source_bytes = info.st_size;
  }
  const auto [at, is_new] = index_.try_emplace({file.blob, check.identity}, checks_.size());
  if (is_new) checks_.push_back(std::move(check));
  checks_[at->second].paths.push_back(file.path);
}

void Verification::CollectListed(const std::set<std::string>& there) {
  std::set<std::string_view> listed;
  std::set<std::string> wanted;
  for (const RepoFile& file : job_.filter.Apply(job_.listing->files)) wanted.insert(file.path);
  for (const RepoFile& file : job_.listing->files) {
    listed.insert(file.path);
    if (wanted.contains(file.path) || there.contains(file.path)) Add(file);
  }
  for (const std::string& path : there) {
    if (!listed.contains(path)) extra_.push_back(path);
  }
}

absl::Status Verification::CollectLinked(const std::set<std::string>& there) {
  for (const std::string& path : there) {
    std::error_code error;
    const std::string blob = fs::read_symlink(SnapshotFile(path), error).filename().string();
    if (error || !IsBlobName(blob)) {
      return Unavailable(Reason::kHubUnavailable,
                         absl::StrCat("the cache has no listing of ", job_.repo_id, " at ",
                                      job_.commit, ", the hub did not give one, and ", path,
                                      " has no name that tells its digest"),
                         std::chrono::seconds(30));
    }
    RepoFile file{.path = path, .blob = blob, .lfs = blob.size() == 64};
    const auto size = fs::file_size(SnapshotFile(path), error);
    file.size_bytes = error ? 0 : static_cast<int64_t>(size);
    Add(file);
  }
  return absl::OkStatus();
}

absl::Status Verification::Collect() {
  const fs::path snapshot = repo_.SnapshotPath(job_.commit);
  std::set<std::string> there;
  std::error_code error;
  for (fs::recursive_directory_iterator it(snapshot, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code of_entry;
    if (it->is_symlink(of_entry) || !it->is_directory(of_entry)) {
      there.insert(it->path().lexically_relative(snapshot).string());
    }
  }
  if (error) return FileError(error.value(), "list", snapshot.string());
  if (job_.listing) {
    CollectListed(there);
  } else {
    RETURN_IF_ERROR(CollectLinked(there));
  }
  // Large ones first, so that no thread is left alone with one at the end.
  std::ranges::stable_sort(checks_, std::greater(), &Check::source_bytes);
  MutexLock lock(mutex_);
  now_.commit = job_.commit;
  for (const Check& check : checks_) {
    now_.bytes_total += check.source_bytes;
    now_.files_total += std::ssize(check.paths);
  }
  Tell(now_);
  for (const std::string& path : extra_) {
    VerifyEvent event = now_;
    event.path = path;
    event.result = VerifyResult::kExtra;
    Tell(event);
  }
  return absl::OkStatus();
}

void Verification::Tell(const VerifyEvent& event) {
  told_at_ = std::chrono::steady_clock::now();
  on_event_(event);
}

void Verification::AddBytes(int64_t bytes) {
  MutexLock lock(mutex_);
  now_.bytes_done += bytes;
  if (std::chrono::steady_clock::now() - told_at_ >= kTellEvery) Tell(now_);
}

void Verification::Fail(const absl::Status& status) {
  MutexLock lock(mutex_);
  if (failure_.ok()) failure_ = status;
}

// A file that is not there (any more) has no digest.
absl::Status Verification::Hash(Check& check) {
  if (check.source.empty()) return absl::OkStatus();
  const absl::StatusOr<UniqueFd> file = OpenFile(check.source, O_RDONLY);
  struct stat info{};
  if (absl::IsNotFound(file.status()) || (file.ok() && fstat(file->get(), &info) != 0)) {
    check.source.clear();
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(file.status());
  check.identity = {info.st_dev, info.st_ino};
  // Git's digest begins with the size, so that a file of another size needs its own.
  RepoFile actual = check.file;
  actual.size_bytes = info.st_size;
  BlobDigest digest(actual);
  std::vector<char> buffer(kReadBytes);
  posix_fadvise(file->get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  for (int64_t offset = 0;;) {
    if (stop_.stop_requested()) return Stopped();
    ASSIGN_OR_RETURN(const int64_t count,
                     ReadAt(file->get(), std::span<char>(buffer), offset, check.source));
    if (count == 0) break;
    digest.Update(std::span<const char>(buffer.data(), static_cast<size_t>(count)));
    // What is read once need not push out what is used.
    posix_fadvise(file->get(), offset, count, POSIX_FADV_DONTNEED);
    offset += count;
    AddBytes(count);
  }
  check.digest = digest.HexDigest();
  check.right = check.digest == check.file.blob && info.st_size == check.file.size_bytes;
  return absl::OkStatus();
}

// A read that the totals do not have yet.
absl::Status Verification::HashAgain(Check& check) {
  {
    MutexLock lock(mutex_);
    now_.bytes_total += check.file.size_bytes;
  }
  return Hash(check);
}

void Verification::Settle(const Check& check) {
  MutexLock lock(mutex_);
  VerifyEvent event = now_;
  event.expected_digest = check.file.blob;
  event.actual_digest = check.digest;
  event.result = check.source.empty() ? VerifyResult::kMissing
                 : check.right        ? VerifyResult::kOk
                                      : VerifyResult::kCorrupt;
  for (const std::string& path : check.paths) {
    event.files_done = ++now_.files_done;
    event.path = path;
    Tell(event);
  }
}

absl::Status Verification::HashAll() {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    LowerIoPriority();
    for (size_t i; (i = next++) < checks_.size() && !stop_.stop_requested();) {
      // What cannot be read is not verified, whatever the others are.
      if (absl::Status hashed = Hash(checks_[i]); !hashed.ok()) return Fail(hashed);
      Settle(checks_[i]);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < kHashThreads; ++i) threads.emplace_back(work);
  }
  if (stop_.stop_requested()) return Stopped();
  MutexLock lock(mutex_);
  return failure_;
}

// Whether blobs/ has no wrong bytes under the blob's name any more; false when another program has
// its lock.
absl::StatusOr<bool> Verification::RemoveWrong(Check& check) {
  const std::string path = repo_.BlobPath(check.file.blob);
  struct stat info{};
  if (stat(path.c_str(), &info) != 0) {
    // Nothing there, or a link to nowhere, which a rename will replace.
    return true;
  }
  FileIdentity wrong{info.st_dev, info.st_ino};
  if (check.source.empty() || wrong != check.identity) {
    // Not what was read: it may well be right.
    Check blob{.file = check.file, .source = path};
    RETURN_IF_ERROR(HashAgain(blob));
    if (blob.source.empty() || blob.right) return true;
    wrong = blob.identity;
  }
  const absl::StatusOr<bool> removed = repo_.RemoveWrongBlob(check.file.blob, wrong);
  if (absl::IsUnavailable(removed.status())) return false;
  return removed;
}

absl::StatusOr<bool> Verification::MakeRoomFor(Check& check) {
  const auto deadline = std::chrono::steady_clock::now() + kLockWaitMax;
  while (true) {
    ASSIGN_OR_RETURN(const bool done, RemoveWrong(check));
    if (done) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    if (!Clock::Real().Sleep(kLockPoll, stop_)) return Stopped();
  }
}

void Verification::Fetch(Check& check, std::latch& settled) {
  FileDownload download;
  download.model_name = job_.model_name;
  download.cache_name = job_.cache_name;
  download.cache_path = job_.cache_path;
  download.repo_id = job_.repo_id;
  download.token_credential = job_.token_credential;
  download.commit = job_.commit;
  download.file = check.file;
  download.stop = stop_;
  download.on_progress = [this, told = std::make_shared<std::atomic<int64_t>>(0)](int64_t bytes,
                                                                                  FileState) {
    const int64_t before = told->load();
    if (bytes > before && told->exchange(bytes) == before) AddBytes(bytes - before);
  };
  const absl::Status submitted = pool_.Submit(
      std::move(download), [this, &check, &settled](const absl::StatusOr<FileResult>& result) {
        const absl::Status done = result.ok() ? Finish(check, *result) : result.status();
        if (!done.ok()) Fail(done);
        settled.count_down();
      });
  if (!submitted.ok()) {
    Fail(submitted);
    settled.count_down();
  }
}

absl::Status Verification::Finish(Check& check, const FileResult& result) {
  if (result.present) {
    // Another program brought it, or it was there: only our own downloads are verified.
    Check blob{.file = check.file, .source = repo_.BlobPath(check.file.blob)};
    RETURN_IF_ERROR(HashAgain(blob));
    if (!blob.right) {
      return Error(Reason::kDigestMismatch,
                   absl::StrCat("the blob ", check.file.blob, " of ", job_.repo_id,
                                " was written by another program with the digest ", blob.digest),
                   {{"expected", check.file.blob}, {"actual", blob.digest}});
    }
  }
  for (const std::string& path : check.paths) {
    RepoFile file = check.file;
    file.path = path;
    RETURN_IF_ERROR(repo_.Link(job_.commit, file));
    MutexLock lock(mutex_);
    VerifyEvent event = now_;
    event.path = path;
    event.result = VerifyResult::kRepaired;
    event.expected_digest = event.actual_digest = check.file.blob;
    Tell(event);
  }
  return absl::OkStatus();
}

absl::Status Verification::RepairAll() {
  std::vector<Check*> broken;
  for (Check& check : checks_) {
    if (check.source.empty() || !check.right) broken.push_back(&check);
  }
  if (broken.empty()) return absl::OkStatus();
  if (!job_.listing) {
    return Unavailable(Reason::kHubUnavailable,
                       absl::StrCat("nothing of ", job_.repo_id,
                                    " can be repaired while the hub does not give its listing"),
                       std::chrono::seconds(30));
  }
  RETURN_IF_ERROR(PrepareCache(job_.cache_path));
  RETURN_IF_ERROR(repo_.CheckWritable());
  // Nothing is taken away before the hub has said that it can be had again.
  for (const Check* check : broken) {
    RETURN_IF_ERROR(
        hub_.Locate({job_.repo_id, job_.token_credential}, job_.commit, check->file.path, {}, stop_)
            .status());
  }
  {
    MutexLock lock(mutex_);
    for (const Check* check : broken) now_.bytes_total += check->file.size_bytes;
    Tell(now_);
  }
  std::latch settled(std::ssize(broken));
  for (Check* check : broken) {
    const absl::StatusOr<bool> removed = MakeRoomFor(*check);
    if (removed.ok() && *removed) {
      Fetch(*check, settled);
      continue;
    }
    Fail(!removed.ok() ? removed.status()
                       : Error(Reason::kModelInUse,
                               absl::StrCat("another program holds the lock of the blob ",
                                            check->file.blob, " of ", job_.repo_id)));
    settled.count_down();
  }
  settled.wait();
  if (stop_.stop_requested()) return Stopped();
  MutexLock lock(mutex_);
  return failure_;
}

absl::Status Verification::Run() {
  RETURN_IF_ERROR(Collect());
  RETURN_IF_ERROR(HashAll());
  if (job_.repair) RETURN_IF_ERROR(RepairAll());
  MutexLock lock(mutex_);
  Tell(now_);
  return absl::OkStatus();
}

}  // namespace

absl::Status VerifySnapshot(const VerifyJob& job, HubClient& hub, DownloadPool& pool,
                            const OnVerified& on_event, std::stop_token stop) {
  return Verification(job, hub, pool, on_event, std::move(stop)).Run();
}

}  // namespace modeld
