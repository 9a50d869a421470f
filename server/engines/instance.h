// One engine process with what modeld knows of it, and the count of requests that use it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "server/base/mutex.h"
#include "server/core/model.h"
#include "server/engines/engine_process.h"
#include "server/engines/stats_metrics.h"

namespace grpc {
class Channel;
}

namespace modeld {

// How many requests hold an instance. Outlives the instance while a handle does. Thread-safe.
class PinCount {
 public:
  void Add() {
    MutexLock lock(mutex_);
    ++count_;
  }
  void Remove() {
    MutexLock lock(mutex_);
    if (--count_ == 0) changed_.NotifyAll();
  }
  int64_t count() const {
    MutexLock lock(mutex_);
    return count_;
  }
  // Ends every WaitForNone() at once, now and later.
  void Hurry() {
    MutexLock lock(mutex_);
    hurried_ = true;
    changed_.NotifyAll();
  }
  // False when some are left at `deadline`.
  bool WaitForNone(std::chrono::steady_clock::time_point deadline) {
    MutexLock lock(mutex_);
    while (count_ > 0 && !hurried_) {
      if (!changed_.WaitUntil(mutex_, deadline)) break;
    }
    return count_ == 0;
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  int64_t count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool hurried_ ABSL_GUARDED_BY(mutex_) = false;
};

// Who sees an instance to its end; exactly one does.
enum class Ending { kNone, kClaimed };

// An entry of Engines; everything but `pins` and `process` itself is guarded by the mutex of
// Engines.
struct EngineInstance {
  Instance shown;
  bool pinned = false;
  std::map<std::string, int64_t> budget_bytes;
  int64_t last_used_ns = 0;
  int64_t sequences_max = 0;  // that run at once, as the engine said; 0: not said
  double kv_cache_used_ratio = 0;
  Ending ending = Ending::kNone;
  std::shared_ptr<grpc::Channel> channel;
  const std::shared_ptr<PinCount> pins = std::make_shared<PinCount>();

  // Set before the instance can be seen as READY, and again only by the thread that ends it.
  std::unique_ptr<EngineProcess> process;
  std::unique_ptr<StatsMetrics>
      counters;        // used by `stats`, and after its end by who ends the instance
  std::jthread stats;  // after `process`: it ends first
};

// How many requests wait in an engine. What it says is up to a second old; those beyond what it
// runs at once wait for certain.
inline int64_t WaitingRequests(int64_t pins, int64_t sequences_max, int64_t said_waiting) {
  const int64_t beyond = sequences_max > 0 ? pins - sequences_max : 0;
  return std::max<int64_t>({0, beyond, std::min(said_waiting, pins)});
}

}  // namespace modeld
