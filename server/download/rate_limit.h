// A bandwidth limit that many connections share and that may change while they run.
#pragma once

#include <atomic>
#include <cstdint>
#include <stop_token>

#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace modeld {

// A token bucket. Bytes are charged when they have come, in the order of the calls, and the caller
// waits until they are paid for: so pieces of any size are fine, and a connection that waits reads
// no further. What was not used is saved for 100 ms at most. Thread-safe.
class RateLimit {
 public:
  explicit RateLimit(Clock& clock = Clock::Real());

  // 0: no limit. Takes effect within 100 ms, also for those who wait now.
  void Set(int64_t bytes_per_second);
  int64_t bytes_per_second() const { return rate_.load(std::memory_order_relaxed); }

  // Waits until `bytes` more may pass; false when `stop` came first.
  bool Wait(int64_t bytes, std::stop_token stop);

 private:
  void Refill() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Clock& clock_;
  std::atomic<int64_t> rate_{0};
  Mutex mutex_;
  // Bytes since the beginning: asked for, and allowed so far.
  double charged_ ABSL_GUARDED_BY(mutex_) = 0;
  double allowed_ ABSL_GUARDED_BY(mutex_) = 0;
  std::chrono::steady_clock::time_point refilled_at_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
