#include "server/hub/request_budget.h"

#include <algorithm>

#include "server/curl/url.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Two answers of one window may round its end differently.
constexpr seconds kSlack{2};
// An answer that takes longer does not come.
constexpr seconds kAnswerMax{30};

}  // namespace

HubRequestKind KindOfRequest(const std::string& url) {
  const size_t host = url.find("://");
  const size_t path = host == std::string::npos ? host : url.find('/', host + 3);
  if (path == std::string::npos) return HubRequestKind::kApi;
  const std::string_view rest = std::string_view(url).substr(path);
  const bool api = rest.starts_with("/api/") && !rest.starts_with("/api/resolve-cache/");
  return api ? HubRequestKind::kApi : HubRequestKind::kResolvers;
}

std::optional<milliseconds> RequestBudget::Take(const Bucket& bucket) {
  const Time now = clock_.Steady();
  milliseconds wait{0};
  {
    MutexLock lock(mutex_);
    State& state = states_[bucket];
    if (now - state.counted_since > kAnswerMax) {
      state.on_the_way = 0;
      state.counted_since = now;
    }
    if (state.left != kUnlimited && now >= state.window_end) {
      state.left = state.quota == kUnlimited ? kUnlimited
                                             : std::max<int64_t>(state.quota - state.on_the_way, 1);
      state.window_end = now + state.window;
    }
    const Time until = std::max(state.pause_end, state.left == 0 ? state.window_end : Time());
    if (until <= now) {
      if (state.left > 0) --state.left;
      ++state.on_the_way;
      return std::nullopt;
    }
    wait = std::chrono::ceil<milliseconds>(until - now);
    if (!BeginsPause(until, now, state)) return wait;
  }
  on_pause_(bucket, wait);
  return wait;
}

// A pause that only becomes longer is the same one.
bool RequestBudget::BeginsPause(Time until, Time now, State& state) {
  const bool begins = state.told <= now;
  state.told = std::max(state.told, until);
  return begins;
}

void RequestBudget::Heed(const Bucket& bucket, const HttpResponse& response) {
  const std::optional<RequestQuota> limit = ParseQuota(response);
  const bool refused = response.status == 408 || response.status == 429 || response.status >= 500;
  const std::optional<milliseconds> asked = refused ? AskedWait(response) : std::nullopt;
  const Time now = clock_.Steady();
  bool new_pause = false;
  {
    MutexLock lock(mutex_);
    State& state = states_[bucket];
    state.on_the_way = std::max<int64_t>(state.on_the_way - 1, 0);
    if (limit) Refill(*limit, now, state);
    if (asked) state.pause_end = std::max(state.pause_end, now + *asked);
    new_pause = asked && BeginsPause(state.pause_end, now, state);
  }
  if (new_pause) on_pause_(bucket, *asked);
}

void RequestBudget::Refill(const RequestQuota& limit, Time now, State& state) {
  if (limit.quota > 0) state.quota = limit.quota;
  if (limit.window > seconds(0)) state.window = limit.window;
  // A second to spare, since the server's seconds are whole ones.
  const Time end = now + limit.reset + seconds(1);
  const bool same = state.left != kUnlimited && end <= state.window_end + kSlack;
  // Answers overtake each other: the fewest count.
  const int64_t left = std::max<int64_t>(limit.left - state.on_the_way, 0);
  state.left = same ? std::min(state.left, left) : left;
  state.window_end = same ? std::max(state.window_end, end) : end;
}

}  // namespace modeld
