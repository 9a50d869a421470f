#include "server/download/rate_limit.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace modeld {
namespace {

// What is saved up at most, and how late a change of the limit is noticed.
constexpr double kBurstSeconds = 0.1;
constexpr std::chrono::milliseconds kLookAgain{100};

}  // namespace

RateLimit::RateLimit(Clock& clock) : clock_(clock), refilled_at_(clock.Steady()) {}

void RateLimit::Set(int64_t bytes_per_second) {
  MutexLock lock(mutex_);
  Refill();
  rate_.store(std::max<int64_t>(0, bytes_per_second), std::memory_order_relaxed);
}

void RateLimit::Refill() {
  const auto now = clock_.Steady();
  const double seconds = std::chrono::duration<double>(now - refilled_at_).count();
  refilled_at_ = now;
  const auto rate = static_cast<double>(rate_.load(std::memory_order_relaxed));
  if (rate == 0) {
    allowed_ = charged_;
  } else {
    allowed_ = std::min(charged_ + rate * kBurstSeconds, allowed_ + rate * seconds);
  }
}

bool RateLimit::Wait(int64_t bytes, std::stop_token stop) {
  if (rate_.load(std::memory_order_relaxed) == 0) return true;
  double mine = -1;  // what must be allowed before this call may go on
  while (true) {
    std::chrono::nanoseconds wait(0);
    {
      MutexLock lock(mutex_);
      Refill();
      if (mine < 0) mine = charged_ += static_cast<double>(bytes);
      const auto rate = static_cast<double>(rate_.load(std::memory_order_relaxed));
      if (rate == 0 || allowed_ >= mine) return true;
      wait = std::chrono::nanoseconds(static_cast<int64_t>(
          std::min((mine - allowed_) / rate * 1e9,
                   static_cast<double>(std::chrono::nanoseconds(kLookAgain).count()))));
    }
    // At least a microsecond: a wait rounded down to nothing would never end on a clock of a test.
    wait = std::max(wait, std::chrono::nanoseconds(1000));
    if (!clock_.Sleep(wait, stop)) return false;
  }
}

}  // namespace modeld
