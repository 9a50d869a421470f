// How far a snapshot is, put together from what its files say.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/core/operation.h"
#include "server/core/repo.h"
#include "server/metrics/metrics.h"

namespace modeld {

// Thread-safe. Tells `on_progress` at most 10 times a second, one call at a time, and keeps the
// gauges of the model; they go to 0 when it ends.
class SnapshotProgress {
 public:
  using OnProgress = std::function<void(const OperationProgress&)>;

  // All of it outlives this object. Files with one blob share their bytes: the first has them.
  SnapshotProgress(const std::vector<RepoFile>& files, const OnProgress& on_progress,
                   Metrics& metrics, Clock& clock, const std::string& model_name);
  ~SnapshotProgress();
  SnapshotProgress(const SnapshotProgress&) = delete;
  SnapshotProgress& operator=(const SnapshotProgress&) = delete;

  // The file at `index` has so many bytes on disk.
  void Update(size_t index, int64_t bytes_done, FileState state);
  // The file at `index` will not come; the bytes it has stay.
  void Fail(size_t index);
  // Tells it once more, whatever the pace; after it nothing is told.
  void Finish();

 private:
  OperationProgress Now() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  double Rate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Tell();

  struct Sample {
    std::chrono::steady_clock::time_point time;
    int64_t bytes = 0;
  };

  const OnProgress& on_progress_;
  Metrics& metrics_;
  Clock& clock_;
  const std::string model_name_;

  Mutex mutex_;
  std::vector<FileProgress> files_ ABSL_GUARDED_BY(mutex_);
  std::vector<bool> counted_ ABSL_GUARDED_BY(mutex_);  // false: its blob is counted by another file
  int64_t bytes_total_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;       // on disk now
  int64_t bytes_told_ ABSL_GUARDED_BY(mutex_) = 0;  // never goes back
  int64_t files_done_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Sample> samples_ ABSL_GUARDED_BY(mutex_);
  std::chrono::steady_clock::time_point told_at_ ABSL_GUARDED_BY(mutex_);
  bool telling_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  CondVar told_;
};

}  // namespace modeld
