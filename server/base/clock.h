// Time as a seam: the real clock in the daemon, one that tests move by hand.
#pragma once

#include <chrono>
#include <stop_token>

namespace modeld {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Wall time, for what people and the database see.
  virtual std::chrono::system_clock::time_point Now() = 0;
  // Never goes back, for durations.
  virtual std::chrono::steady_clock::time_point Steady() = 0;
  // Waits for `duration`, or less when `stop` is requested; false in that case.
  virtual bool Sleep(std::chrono::nanoseconds duration, std::stop_token stop) = 0;

  // The machine's clock; lives for ever.
  static Clock& Real();
};

}  // namespace modeld
