// A clock that tests move: Sleep() returns at once and the time has passed.
#pragma once

#include <chrono>
#include <stop_token>
#include <vector>

#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace modeld {

// Thread-safe.
class FakeClock final : public Clock {
 public:
  std::chrono::system_clock::time_point Now() override {
    MutexLock lock(mutex_);
    return std::chrono::system_clock::time_point(std::chrono::hours(24 * 365 * 50)) +
           std::chrono::duration_cast<std::chrono::system_clock::duration>(passed_);
  }
  std::chrono::steady_clock::time_point Steady() override {
    MutexLock lock(mutex_);
    return std::chrono::steady_clock::time_point(std::chrono::hours(1)) + passed_;
  }
  bool Sleep(std::chrono::nanoseconds duration, std::stop_token stop) override {
    if (stop.stop_requested()) return false;
    MutexLock lock(mutex_);
    passed_ += duration;
    slept_.push_back(duration);
    return true;
  }

  void Advance(std::chrono::nanoseconds duration) {
    MutexLock lock(mutex_);
    passed_ += duration;
  }
  // Every sleep so far, in order.
  std::vector<std::chrono::nanoseconds> slept() const {
    MutexLock lock(mutex_);
    return slept_;
  }

 private:
  mutable Mutex mutex_;
  std::chrono::nanoseconds passed_ ABSL_GUARDED_BY(mutex_){0};
  std::vector<std::chrono::nanoseconds> slept_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
