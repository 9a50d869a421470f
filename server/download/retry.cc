#include "server/download/retry.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "server/base/random.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kBackoffMax{30'000};
// The hub counts in windows of 5 minutes; nothing honest asks for more.
constexpr milliseconds kRetryAfterMax{300'000};

std::optional<milliseconds> Seconds(std::string_view text) {
  int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || seconds < 0) return std::nullopt;
  return std::min(kRetryAfterMax, milliseconds(std::min<int64_t>(seconds, 86'400) * 1000));
}

// The number behind ";r=" or ";t=" of a RateLimit header.
std::optional<milliseconds> Parameter(std::string_view header, std::string_view name) {
  const size_t at = header.find(name);
  if (at == std::string_view::npos) return std::nullopt;
  return Seconds(header.substr(at + name.size()));
}

}  // namespace

std::optional<milliseconds> RetryAfterOf(const HttpResponse& response) {
  if (const auto header = response.Header("Retry-After")) {
    if (const auto wait = Seconds(*header)) return wait;
  }
  if (const auto header = response.Header("RateLimit")) {
    const auto remaining = Parameter(*header, ";r=");
    const auto reset = Parameter(*header, ";t=");
    if (remaining && *remaining == milliseconds(0) && reset) return *reset + milliseconds(1000);
  }
  return std::nullopt;
}

milliseconds BackoffOf(int attempt, milliseconds base) {
  const milliseconds ceiling =
      std::min<milliseconds>(kBackoffMax, base * (1LL << std::clamp(attempt, 0, 20)));
  return milliseconds(static_cast<int64_t>(static_cast<double>(ceiling.count()) * RandomUnit()));
}

void HostPauses::Pause(const std::string& origin, milliseconds duration) {
  const auto until = clock_.Steady() + duration;
  MutexLock lock(mutex_);
  auto& pause = until_[origin];
  pause = std::max(pause, until);
}

std::chrono::steady_clock::time_point HostPauses::Until(const std::string& origin) {
  MutexLock lock(mutex_);
  const auto it = until_.find(origin);
  if (it == until_.end()) return {};
  if (it->second > clock_.Steady()) return it->second;
  until_.erase(it);
  return {};
}

}  // namespace modeld
