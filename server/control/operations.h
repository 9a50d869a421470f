// The verbs on operations: ask for a load, an unload or a download of this node, and follow it. The
// work itself is the loader's (loader.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/control/changes.h"
#include "server/control/live_progress.h"
#include "server/control/registry.h"
#include "server/control/tables.h"
#include "server/core/inspection.h"
#include "server/core/operation.h"
#include "server/download/download_pool.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"

namespace modeld {

struct LoadRequest {
  std::string model_name;
  std::string revision;  // empty: the row's commit
  LoadSpec spec;         // empty dtype: bfloat16; empty device_map without entries: auto
  bool pin = false;
};

struct DownloadRequest {
  std::string model_name;
  std::string revision;              // empty: the row's
  int32_t priority = 0;              // -1000 to 1000
  FileFilter filter;                 // empty: the row's
  int64_t bytes_per_second_max = 0;  // 0: no limit; of a download that this request begins
};

// What is not given stays as it is; 0: no limit.
struct LimitsChange {
  std::string operation;  // empty: all downloads of this daemon together
  std::optional<int64_t> bytes_per_second = {};
  std::optional<int32_t> connections = {};           // not of one operation
  std::optional<int32_t> connections_per_host = {};  // not of one operation
};

struct OperationsPage {
  std::vector<Operation> operations;
  std::string next_page_token;  // empty on the last page, and only there
};

struct DownloadPlan {
  std::string commit;
  std::vector<FileProgress> files;  // kPresent, or kPending
  std::vector<LeftOutFile> left_out;
  int64_t fetch_bytes = 0;
  int64_t present_bytes = 0;
  int64_t free_after_bytes = 0;  // less what others have reserved; negative when it does not fit
  std::optional<Inspection> inspection;
};

// Thread-safe. Every method may block; DATABASE_UNAVAILABLE when the database is away. Operations
// in answers carry the newest progress of this process.
class Operations {
 public:
  struct Options {
    std::string node_id;
    DownloadPool::Limits limits;  // of all downloads together, at first
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    HubClient& hub;
    DownloadPool& pool;
    Engines& engines;
    Changes& changes;
    LiveProgress& live;
  };

  Operations(const Options& options, const Parts& parts);

  // MODEL_NOT_FOUND; INVALID_FIELD; OPERATION_IN_PROGRESS (metadata operation) while another load
  // of the model runs; where it is known already UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_WEIGHTS,
  // INVALID_REPOSITORY, REMOTE_CODE_NOT_TRUSTED, INSUFFICIENT_DEVICE_MEMORY.
  absl::StatusOr<Operation> Load(const LoadRequest& request);
  // MODEL_NOT_FOUND; MODEL_NOT_READY when it is neither loaded nor loading on this node.
  absl::StatusOr<Operation> Unload(const std::string& model_name);
  // MODEL_NOT_FOUND, INVALID_FIELD, OPERATION_IN_PROGRESS while another download of the model runs.
  // One for the same files is shared, with the higher of both priorities.
  absl::StatusOr<Operation> Download(const DownloadRequest& request);
  // What Download() would do; changes nothing. Also the errors of HubClient.
  absl::StatusOr<DownloadPlan> Plan(const DownloadRequest& request, std::stop_token stop);

  // OPERATION_NOT_FOUND.
  absl::StatusOr<Operation> Get(const std::string& name);
  // Newest first; of one model when `model_name` is not empty. INVALID_FIELD (page_size,
  // page_token).
  absl::StatusOr<OperationsPage> List(const std::string& model_name, int64_t page_size,
                                      const std::string& page_token);
  // The operation when it is done, or as it stands after `timeout` or when `stop` is requested.
  absl::StatusOr<Operation> Wait(const std::string& name, std::chrono::milliseconds timeout,
                                 std::stop_token stop);
  // OPERATION_NOT_FOUND, OPERATION_NOT_ACTIVE. A running one ends within about a second.
  absl::StatusOr<Operation> Cancel(const std::string& name);
  absl::StatusOr<Operation> Pause(const std::string& name);
  absl::StatusOr<Operation> Resume(const std::string& name);

  // OPERATION_NOT_FOUND. An empty name means all downloads of this daemon together.
  absl::StatusOr<DownloadPool::Limits> Limits(const std::string& operation);
  // In force at once for what runs here, and within about a second for an operation; those of an
  // operation are kept with it. INVALID_FIELD, OPERATION_NOT_FOUND, OPERATION_NOT_ACTIVE.
  absl::StatusOr<DownloadPool::Limits> SetLimits(const LimitsChange& change);

 private:
  absl::StatusOr<DownloadPool::Limits> SetOwnLimits(const LimitsChange& change);
  absl::StatusOr<DownloadPool::Limits> SetOperationLimit(const LimitsChange& change);
  // For somebody who waits for the model's downloads.
  absl::Status RaiseDownloads(const Model& model, int32_t priority);
  absl::Status CheckLoad(const LoadRequest& request, const Model& model);
  // Whether the model is READY here as asked for.
  absl::StatusOr<bool> Satisfied(const LoadRequest& request, const Model& model);
  absl::StatusOr<Operation> Started(absl::StatusOr<Operation> operation);

  const Options options_;
  const Parts parts_;
  Mutex mutex_;
  DownloadPool::Limits limits_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
