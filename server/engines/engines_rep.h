// The inside of Engines, shared by its three sources: the calls (engines.cc), the life of an
// instance (instance_life.cc), and who holds which memory (ledger.cc).
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "modeld/engine/v1/engine.pb.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/engines/devices.h"
#include "server/engines/engines.h"
#include "server/engines/event_queue.h"
#include "server/engines/instance.h"
#include "server/engines/placement.h"

namespace modeld {

// From EOF on its control socket to the end of an engine; then it is killed.
inline constexpr std::chrono::milliseconds kEndGrace{3'000};
// What RetryInfo says of a full queue and of a lost engine.
inline constexpr std::chrono::milliseconds kRetryAfter{1'000};

using InstancePtr = std::shared_ptr<EngineInstance>;

inline int64_t Nanoseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

// Threads: the callers', one that delivers events, one that samples devices, one that buries the
// dead, two that drain what was replaced; for each engine one that watches the process and one that
// reads its figures.
struct Engines::Rep {
  Rep(const Options& options, Metrics& metrics, Clock& clock, OnEvent on_event)
      : options(options),
        metrics(metrics),
        clock(clock),
        devices(options.cpu_budgets.empty() ? std::vector{options.cpu_memory_bytes}
                                            : options.cpu_budgets,
                options.nvml_library),
        events(std::move(on_event)) {}

  // Of the life of an instance, in this order.
  absl::Status Enter(const EngineLoad& load, const InstancePtr& instance);
  absl::Status Start(const EngineLoad& load, const InstancePtr& instance,
                     const OnLoadProgress& on_progress, std::stop_token stop);
  absl::Status Connect(EngineInstance& instance, std::chrono::steady_clock::time_point deadline,
                       std::stop_token stop);
  absl::Status BecomeReady(const InstancePtr& instance, const modeld::engine::v1::Ready& ready,
                           double load_seconds, std::vector<InstancePtr>& replaced);
  void ApplyStats(EngineInstance& instance, const modeld::engine::v1::StatsResponse& stats);
  bool ClaimEnding(const InstancePtr& instance);
  void Drain(EngineInstance& instance, std::chrono::milliseconds drain);
  // Ends the process within `grace` or by force, and forgets the instance. For whoever claimed the
  // ending.
  void Bury(const InstancePtr& instance, const absl::Status& error,
            std::chrono::milliseconds grace);
  void HandleExit(const InstancePtr& instance);

  void SampleDevices();
  void SampleDevicesUntil(std::stop_token stop);
  std::vector<DeviceInfo> DevicesLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::vector<DeviceRoom> RoomsLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  std::vector<PlacedModel> PlacedLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Writes every gauge that follows from `instances`; `model_name` is the one that changed.
  void PublishLocked(const std::string& model_name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void PublishModelLocked(const std::string& model_name) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Tell(const EngineInstance& instance) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex) {
    events.Push({.instance = instance.shown});
  }
  InstancePtr ReadyLocked(std::string_view model_name) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const Options options;
  Metrics& metrics;
  Clock& clock;
  absl::Status started;  // of the socket directory; constant after the constructor of Engines
  Mutex sampling;        // one sample at a time
  // The method Engines::Devices hides the class.
  ::modeld::Devices devices ABSL_GUARDED_BY(sampling);

  mutable Mutex mutex;  // never held over a call to an engine or to a listener
  CondVar changed;      // an instance is gone
  std::map<std::string, InstancePtr> instances ABSL_GUARDED_BY(mutex);  // by instance_id
  std::vector<DeviceSample> sample ABSL_GUARDED_BY(mutex);
  bool stopping ABSL_GUARDED_BY(mutex) = false;

  EventQueue events;
  Executor undertaker{{.threads = 1}};
  Executor drains{{.threads = 2}};
  std::jthread sampler;
};

}  // namespace modeld
