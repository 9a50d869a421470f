// How many requests the hub lets us make: one bucket for each origin, kind of request and token,
// filled by what its RateLimit headers say (hub-protocol.md 3.6).
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/curl/http_client.h"
#include "server/hub/hub_error.h"

namespace modeld {

// The hub counts its kinds apart: "api" is /api/..., "resolvers" the addresses of files.
enum class HubRequestKind { kApi, kResolvers };
HubRequestKind KindOfRequest(const std::string& url);

// Without headers nothing is limited. A window that ended is full again. Thread-safe.
class RequestBudget {
 public:
  struct Bucket {
    std::string origin;
    HubRequestKind kind = HubRequestKind::kApi;
    std::string credential;  // whose token: accounts have limits of their own

    auto operator<=>(const Bucket&) const = default;
  };
  // Called once for each pause, with no lock held.
  using OnPause = std::function<void(const Bucket&, std::chrono::milliseconds)>;

  RequestBudget(OnPause on_pause, Clock& clock) : on_pause_(std::move(on_pause)), clock_(clock) {}

  // Takes one request out of the bucket; when it is empty, or a pause was asked for, how long to
  // wait before asking here again.
  std::optional<std::chrono::milliseconds> Take(const Bucket& bucket);

  // What the answer to a request that was taken says: requests left, the end of the window, a wait
  // that is asked for.
  void Heed(const Bucket& bucket, const HttpResponse& response);

 private:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr int64_t kUnlimited = -1;
  struct State {
    int64_t left = kUnlimited;  // in this window
    int64_t quota = kUnlimited;
    // Taken, no answer yet: perhaps not in what the server says is left. Counted anew from time to
    // time, since some never get an answer.
    int64_t on_the_way = 0;
    Time counted_since;
    std::chrono::seconds window{0};
    Time window_end;
    Time pause_end;
    Time told;  // the end of the pause that on_pause_ has heard of
  };

  static bool BeginsPause(Time until, Time now, State& state);
  static void Refill(const RequestQuota& limit, Time now, State& state);

  const OnPause on_pause_;
  Clock& clock_;
  Mutex mutex_;
  std::map<Bucket, State> states_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
