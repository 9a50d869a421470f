#include "server/download/snapshot_progress.h"

#include <algorithm>
#include <set>
#include <string_view>

namespace modeld {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kTellPeriod{100};
constexpr milliseconds kRateWindow{5'000};
// A rate over less time than this would be noise.
constexpr milliseconds kRateWindowMin{200};

bool IsThere(FileState state) { return state == FileState::kDone || state == FileState::kPresent; }

}  // namespace

SnapshotProgress::SnapshotProgress(const std::vector<RepoFile>& files,
                                   const OnProgress& on_progress, Metrics& metrics, Clock& clock,
                                   const std::string& model_name)
    : on_progress_(on_progress), metrics_(metrics), clock_(clock), model_name_(model_name) {
  std::set<std::string_view> blobs;
  for (const RepoFile& file : files) {
    files_.push_back({.path = file.path, .size_bytes = file.size_bytes});
    counted_.push_back(blobs.insert(file.blob).second);
    if (counted_.back()) bytes_total_ += file.size_bytes;
  }
}

SnapshotProgress::~SnapshotProgress() {
  metrics_.download_bytes_per_second.Add({{"model", model_name_}}).Set(0);
  metrics_.download_remaining_bytes.Add({{"model", model_name_}}).Set(0);
}

void SnapshotProgress::Update(size_t index, int64_t bytes_done, FileState state) {
  {
    MutexLock lock(mutex_);
    FileProgress& file = files_[index];
    if (counted_[index]) bytes_ += bytes_done - file.bytes_done;
    files_done_ += static_cast<int>(IsThere(state)) - static_cast<int>(IsThere(file.state));
    file.bytes_done = bytes_done;
    file.state = state;
    // What was there before the first byte came is no rate.
    if (state == FileState::kPresent || samples_.empty()) {
      samples_.assign(1, {clock_.Steady(), bytes_});
    }
  }
  Tell();
}

void SnapshotProgress::Fail(size_t index) {
  MutexLock lock(mutex_);
  files_[index].state = FileState::kFailed;
}

double SnapshotProgress::Rate() {
  const auto now = clock_.Steady();
  if (samples_.empty() || now - samples_.back().time >= kTellPeriod) {
    samples_.push_back({now, bytes_told_});
  }
  while (samples_.size() > 2 && now - samples_.front().time > kRateWindow) samples_.pop_front();
  const auto span = now - samples_.front().time;
  if (span < kRateWindowMin) return 0;
  const int64_t bytes = std::max<int64_t>(0, bytes_told_ - samples_.front().bytes);
  return static_cast<double>(bytes) / std::chrono::duration<double>(span).count();
}

OperationProgress SnapshotProgress::Now() {
  bytes_told_ = std::max(bytes_told_, bytes_);
  OperationProgress out;
  out.phase = OperationPhase::kDownloading;
  const auto busy = [](const FileProgress& file) {
    return file.state == FileState::kDownloading || file.state == FileState::kPending;
  };
  if (std::ranges::none_of(files_, busy)) out.phase = OperationPhase::kVerifying;
  out.bytes_done = bytes_told_;
  out.bytes_total = bytes_total_;
  out.bytes_per_second = Rate();
  const int64_t remaining = bytes_total_ - bytes_told_;
  if (remaining > 0 && out.bytes_per_second > 0) {
    out.eta = milliseconds(
        static_cast<int64_t>(static_cast<double>(remaining) * 1000 / out.bytes_per_second));
  } else if (remaining == 0) {
    out.eta = milliseconds(0);
  }
  out.files_done = files_done_;
  out.files_total = static_cast<int64_t>(files_.size());
  out.files = files_;
  return out;
}

// Only one thread tells at a time, so that a caller never sees an older state after a newer one.
void SnapshotProgress::Tell() {
  OperationProgress progress;
  {
    MutexLock lock(mutex_);
    const auto now = clock_.Steady();
    const bool early = told_at_.time_since_epoch().count() != 0 && now - told_at_ < kTellPeriod;
    if (telling_ || finished_ || early) return;
    telling_ = true;
    told_at_ = now;
    progress = Now();
  }
  metrics_.download_bytes_per_second.Add({{"model", model_name_}}).Set(progress.bytes_per_second);
  metrics_.download_remaining_bytes.Add({{"model", model_name_}})
      .Set(static_cast<double>(progress.bytes_total - progress.bytes_done));
  if (on_progress_) on_progress_(progress);
  MutexLock lock(mutex_);
  telling_ = false;
  told_.NotifyAll();
}

void SnapshotProgress::Finish() {
  OperationProgress progress;
  {
    MutexLock lock(mutex_);
    while (telling_) told_.Wait(mutex_);
    finished_ = true;
    progress = Now();
  }
  if (on_progress_) on_progress_(progress);
}

}  // namespace modeld
