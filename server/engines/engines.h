// modeld's side of the engines: the processes of this node, what they hold, and handles to them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/core/inspection.h"
#include "server/core/model.h"
#include "server/core/request_limits.h"
#include "server/metrics/metrics.h"

namespace grpc {
class Channel;
}

namespace modeld {

// A place for models on this node.
struct DeviceInfo {
  std::string name;     // "cpu", "cpu:0", "cuda:0"
  std::string kind;     // "cpu", "cuda"
  std::string product;  // the GPU's name
  std::string uuid;     // the GPU's
  int64_t total_bytes = 0;
  int64_t used_bytes = 0;                      // by anybody (cuda), by our models (cpu)
  int64_t foreign_bytes = 0;                   // by programs that are not ours
  std::map<std::string, int64_t> model_bytes;  // model_name -> bytes
};

// Where a model goes and what that costs.
struct Placement {
  std::map<std::string, int64_t> budget_bytes;  // device -> hard budget for the engine
  int64_t max_context = 0;
  std::map<std::string, std::string> device_map_entries;  // empty: all is on one device
  std::vector<std::string> evict;  // model_names to unload first, least recently used first
};

// What to load.
struct EngineLoad {
  std::string model_name;
  int64_t model_id = 0;
  std::string node_id;
  std::string commit;
  std::string snapshot_path;
  bool trust_remote_code = false;
  bool pinned = false;
  LoadSpec spec;
  Placement placement;
  std::chrono::milliseconds timeout{300'000};
};

// Pins a READY instance: an unload waits until every handle is gone. Movable, for one request.
class EngineHandle {
 public:
  EngineHandle() = default;
  // The engine's socket: modeld.v1.Inference is served there.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  const std::string& instance_id() const { return instance_id_; }
  explicit operator bool() const { return channel_ != nullptr; }

 private:
  friend class Engines;
  std::shared_ptr<grpc::Channel> channel_;
  std::string instance_id_;
  std::shared_ptr<void> pin_;
};

// Thread-safe. The destructor ends every engine.
class Engines {
 public:
  struct Options {
    std::string program;     // modeld-engine
    std::string socket_dir;  // made when missing, 0700; leftover sockets and processes are ended
    std::string node_name;   // metric label
    int64_t threads = 0;     // of each engine; 0: one for each core
    int64_t cpu_memory_bytes = 0;           // budget of the device cpu
    std::vector<int64_t> cpu_budgets = {};  // not empty: of cpu:0, cpu:1, ... in its place
    int64_t requests_waiting_max = 512;
    RequestLimits limits;
    bool prefix_cache = true;
    std::string nvml_library = "libnvidia-ml.so.1";  // dlopen; no such library: no GPU
  };
  // An instance appeared, changed its state or its figures, or is gone (then `error` says why, OK
  // when it was asked for). From a thread of ours, no lock held, in order for each instance.
  struct Event {
    Instance instance;
    bool gone = false;
    absl::Status error;  // ENGINE_LOST when the process died by itself
  };
  using OnEvent = std::function<void(const Event&)>;

  Engines(const Options& options, Metrics& metrics, Clock& clock, OnEvent on_event);
  ~Engines();
  Engines(const Engines&) = delete;
  Engines& operator=(const Engines&) = delete;

  // Runs `modeld-engine inspect` with `request_json` on its stdin, sandboxed, at most 30 s.
  absl::StatusOr<Inspection> Inspect(const std::string& request_json, std::stop_token stop);

  // Picks devices and budgets for a model, counting what is loaded and being loaded; `evict` names
  // unpinned models that must go for it to fit (never `model_name` itself unless `replace`).
  // INSUFFICIENT_DEVICE_MEMORY with both figures, the device, and what is pinned; INVALID_FIELD
  // (device_map, device_map_entries) for a device that is not there or a map that is not whole.
  absl::StatusOr<Placement> Plan(const std::string& model_name, const Inspection& inspection,
                                 const LoadSpec& spec, bool replace);

  // Starts an engine and loads; READY when it has answered. Blocks. A model has one READY instance;
  // with another READY one the new one takes over and the old one is drained. Errors of LoadModel;
  // DEADLINE_EXCEEDED after `timeout`; CANCELLED on stop.
  using OnLoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;
  absl::StatusOr<Instance> Load(const EngineLoad& load, const OnLoadProgress& on_progress,
                                std::stop_token stop);

  // Takes no new requests, waits for the running ones at most `drain`, ends the process. OK when
  // there is none.
  absl::Status Unload(const std::string& model_name, std::chrono::milliseconds drain);

  // MODEL_NOT_READY when no instance is READY, QUEUE_FULL when requests_waiting_max wait already.
  // Counts as a use.
  absl::StatusOr<EngineHandle> Pin(std::string_view model_name);

  std::vector<Instance> List() const;       // of this node, by model_name
  std::vector<DeviceInfo> Devices() const;  // last sample; never blocks
  void SetPinned(const std::string& model_name, bool pinned);

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
