// An operation: one attempt to download, load or unload, kept as a row and shown to its callers.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/core/file_filter.h"
#include "server/core/model.h"

namespace modeld {

// The numbers of these enums are those of the proto and of the database.
enum class OperationKind { kUnspecified = 0, kDownload = 1, kLoad = 2, kUnload = 3, kVerify = 4 };
enum class OperationState {
  kUnspecified = 0,
  kPending = 1,
  kRunning = 2,
  kPaused = 3,
  kSucceeded = 4,
  kFailed = 5,
  kCancelled = 6,
};
enum class OperationPhase {
  kUnspecified = 0,
  kResolving = 1,
  kDownloading = 2,
  kVerifying = 3,
  kLoading = 4,
  kReady = 5,
};
enum class FileState {
  kUnspecified = 0,
  kPending = 1,
  kDownloading = 2,
  kVerifying = 3,
  kDone = 4,     // fetched by this operation
  kPresent = 5,  // was there already
  kFailed = 6,
};
std::string_view OperationKindName(OperationKind kind);
std::string_view OperationStateName(OperationState state);

// SUCCEEDED, FAILED or CANCELLED: nothing follows.
bool IsFinal(OperationState state);
// The one table of legal steps. A final state has none; staying is always legal.
//   PENDING -> RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED
//   RUNNING -> PENDING (given back after a crash or for a retry), PAUSED, SUCCEEDED, FAILED,
//   CANCELLED PAUSED  -> PENDING, CANCELLED, FAILED
bool MayFollow(OperationState from, OperationState to);

struct FileProgress {
  std::string path;
  int64_t size_bytes = 0;
  int64_t bytes_done = 0;
  FileState state = FileState::kPending;

  bool operator==(const FileProgress&) const = default;
};

// How far an operation is. bytes_done never goes back within one operation.
struct OperationProgress {
  OperationPhase phase = OperationPhase::kUnspecified;
  int64_t bytes_done = 0;
  int64_t bytes_total = 0;  // 0: not known yet
  double bytes_per_second = 0;
  std::optional<std::chrono::milliseconds> eta;
  int64_t files_done = 0;
  int64_t files_total = 0;
  std::vector<FileProgress> files;
};

// What is asked for; enough to start again after a crash.
struct OperationSpec {
  std::string revision;              // resolve this; empty: the row's commit
  LoadSpec load;                     // kLoad
  bool pinned = false;               // kLoad
  int32_t priority = 0;              // higher first; may be raised later
  int64_t bytes_per_second_max = 0;  // of what it fetches; 0: no limit; may be changed later
  std::optional<FileFilter> filter;  // kDownload: instead of the row's
};

struct Operation {
  std::string name;  // no slash; a UUID
  OperationKind kind = OperationKind::kUnspecified;
  int64_t model_id = 0;
  std::string model_name;
  std::string node_id;
  OperationSpec spec;
  OperationState state = OperationState::kPending;
  OperationProgress progress;
  absl::Status error;            // of FAILED, CANCELLED, or the last try; what it waits for
  bool waits_for_space = false;  // PAUSED by itself: goes on when there is room
  bool cancel_requested = false;
  bool pause_requested = false;
  std::string owner;  // node that holds the lease
  int64_t epoch = 0;  // of the lease; every write of the owner names it
  TimePoint create_time;
  std::optional<TimePoint> end_time;

  bool done() const { return IsFinal(state); }
};

}  // namespace modeld
