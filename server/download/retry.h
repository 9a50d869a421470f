// When a body is asked for again: waits per file, and pauses that a host asked for.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/curl/http_client.h"

namespace modeld {

// The wait that a 408, 429 or 5xx asks for: Retry-After in seconds, or RateLimit's t when r is 0
// (hub-protocol.md 3.6), at most 5 minutes; nothing when the response has neither.
std::optional<std::chrono::milliseconds> RetryAfterOf(const HttpResponse& response);

// Exponential backoff with full jitter: uniform in [0, min(base * 2^attempt, 30 s)).
std::chrono::milliseconds BackoffOf(int attempt, std::chrono::milliseconds base);

// A host that says "later" says it to all workers: one pause for each origin, not one for each
// file. Thread-safe.
class HostPauses {
 public:
  explicit HostPauses(Clock& clock) : clock_(clock) {}

  void Pause(const std::string& origin, std::chrono::milliseconds duration);
  // Until when nobody may ask `origin`; some time in the past when everybody may.
  std::chrono::steady_clock::time_point Until(const std::string& origin);

 private:
  Clock& clock_;
  Mutex mutex_;
  std::map<std::string, std::chrono::steady_clock::time_point> until_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
