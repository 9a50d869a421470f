// What the registry keeps: the row of a model, its copies on disk, what is wanted in memory and
// what is there; and the state that follows from them.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/cache_location.h"
#include "server/core/file_filter.h"

namespace modeld {

using TimePoint = std::chrono::system_clock::time_point;

// INVALID_FIELD (field "model_name") unless it is [A-Za-z0-9][A-Za-z0-9._-]{0,95}.
absl::Status ValidateModelName(std::string_view name);

// INVALID_FIELD (field "token_credential") unless it is the name of a file that can lie in a folder
// of credentials: A-Z a-z 0-9 . _ - only, not dots alone, at most 255. Empty is fine: none.
absl::Status ValidateTokenCredential(std::string_view name);

// A row of modelregistry: identity and wanted revision, never what is observed.
struct Model {
  int64_t id = 0;
  std::string model_name;
  std::string hf_path;
  std::string revision = "main";
  std::string commit;  // 40 hex once a revision was resolved, else empty
  bool trust_remote_code = false;
  CacheLocation cache_location = CacheLocation::kPrimary;
  std::string cache_path;            // absolute; the folder that has hub/ in it
  std::string snapshot_path;         // of the last complete copy, else empty
  int64_t estimated_size_bytes = 0;  // the caller's or the hub's, 0: unknown
  int64_t size_bytes = 0;            // of the complete copy at `commit`, else 0
  FileFilter filter;
  std::string token_credential;  // name of the credential with the hub's token, else empty
  std::string inspection_json;   // what `modeld-engine inspect` said of `commit`, else empty
  TimePoint create_time;
  TimePoint update_time;
};

// The numbers are those of the proto.
enum class ModelState {
  kUnspecified = 0,
  kRegistered = 1,
  kDownloading = 2,
  kDownloaded = 3,
  kLoading = 4,
  kReady = 5,
  kFailed = 6,
};
inline constexpr ModelState kModelStates[] = {ModelState::kRegistered, ModelState::kDownloading,
                                              ModelState::kDownloaded, ModelState::kLoading,
                                              ModelState::kReady,      ModelState::kFailed};
// "registered", ...; "unspecified".
std::string_view ModelStateName(ModelState state);

// What a model's state follows from, over all nodes.
struct ModelFacts {
  bool instance_ready = false;
  bool instance_loading = false;
  bool download_active = false;        // an operation downloads, or is paused
  bool last_operation_failed = false;  // the newest finished one
  bool copy_complete = false;          // at the row's commit
};
ModelState ComputeModelState(const ModelFacts& facts);

// A model with what follows from everything else.
struct ModelView {
  Model model;
  ModelState state = ModelState::kRegistered;
  absl::Status error;  // of the last operation when state is kFailed, else OK
};

// Files of one commit below one cache path of one node.
struct Copy {
  int64_t model_id = 0;
  std::string node_id;
  std::string cache_path;
  std::string commit;
  std::string snapshot_path;
  FileFilter filter;
  bool complete = false;
  int64_t size_bytes = 0;
};

// How a model is to be loaded.
struct LoadSpec {
  std::string dtype = "bfloat16";   // bfloat16, float16, float32
  std::string device_map = "auto";  // auto or a device; "" with device_map_entries
  std::map<std::string, std::string> device_map_entries;  // module prefix -> device
  int64_t max_context = 0;  // tokens; 0: the smaller of the model's maximum and what fits

  bool operator==(const LoadSpec&) const = default;
};
// INVALID_FIELD naming dtype, device_map, device_map_entries or max_context.
absl::Status ValidateLoadSpec(const LoadSpec& spec);

// What a node should have in memory.
struct Load {
  int64_t model_id = 0;
  std::string node_id;
  std::string commit;
  LoadSpec spec;
  bool pinned = false;
  bool wanted = true;
  TimePoint last_used_time;
};

enum class InstanceState { kUnspecified = 0, kLoading = 1, kReady = 2, kDraining = 3 };
std::string_view InstanceStateName(InstanceState state);

// Bytes of one model on one device, from the engine's allocator.
struct DeviceBytes {
  std::string device;  // "cpu", "cuda:0"
  int64_t weights_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t slack_bytes = 0;

  int64_t total() const { return weights_bytes + kv_cache_bytes + workspace_bytes + slack_bytes; }
  bool operator==(const DeviceBytes&) const = default;
};

// An engine process.
struct Instance {
  std::string instance_id;
  int64_t model_id = 0;
  std::string model_name;
  std::string node_id;
  int64_t pid = 0;
  std::string commit;
  LoadSpec spec;  // max_context as the engine chose it
  std::vector<DeviceBytes> devices;
  InstanceState state = InstanceState::kLoading;
  double load_seconds = 0;
  int64_t active_requests = 0;
  int64_t waiting_requests = 0;
  TimePoint create_time;
};

// A daemon.
struct Node {
  std::string node_id;
  std::string name;
  std::string address;  // of its gRPC server
  TimePoint heartbeat_time;
  std::string caches_json;   // as the node last said: [{"name","path","free_bytes"}]
  std::string devices_json;  // [{"name","kind","total_bytes","used_bytes","free_bytes"}]
};

}  // namespace modeld
