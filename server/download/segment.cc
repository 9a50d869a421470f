#include "server/download/segment.h"

#include <algorithm>

namespace modeld {
namespace {

constexpr int64_t kSegmentMin = 4 << 20;
constexpr int64_t kSegmentMax = 256 << 20;
constexpr int64_t kSegmentFirst = 8 << 20;  // the rate is not known
constexpr int64_t kSegmentStep = 1 << 20;
constexpr double kSegmentSeconds = 1;

// Less than this is not taken over, nor what is there so soon.
constexpr int64_t kTakeOverMin = 1 << 20;
constexpr int64_t kTakeOverStep = 64 << 10;
constexpr double kTakeOverSeconds = 0.5;

// What a new connection costs, and how much better it must be.
constexpr double kConnectSeconds = 0.5;
constexpr double kTimesBetter = 3;
// A pace is believed after so long; without a usual one, only a connection that brings almost
// nothing is given up on, and later.
constexpr std::chrono::seconds kPaceTime{2};
constexpr std::chrono::seconds kSilenceTime{5};
constexpr double kAlmostNothing = 16 << 10;

}  // namespace

int64_t SegmentBytes(double bytes_per_second, int64_t open_bytes, int connections) {
  int64_t bytes = kSegmentFirst;
  if (bytes_per_second > 0) {
    bytes = std::clamp(static_cast<int64_t>(bytes_per_second * kSegmentSeconds), kSegmentMin,
                       kSegmentMax);
  }
  if (connections > 1) {
    bytes = std::min(bytes, std::max(kSegmentMin, open_bytes / 8 / connections));
  }
  bytes = (bytes + kSegmentStep - 1) / kSegmentStep * kSegmentStep;
  const bool rest_is_small = open_bytes - bytes < (connections > 1 ? kSegmentMin : bytes / 2);
  return rest_is_small ? open_bytes : bytes;
}

int64_t TakenOverBytes(int64_t left_bytes, double bytes_per_second) {
  const int64_t half = left_bytes / 2 / kTakeOverStep * kTakeOverStep;
  const bool soon = static_cast<double>(left_bytes) < bytes_per_second * kTakeOverSeconds;
  return half < kTakeOverMin || soon ? 0 : half;
}

bool Crawls(const SegmentPace& pace) {
  if (pace.bytes_per_second < 0 || pace.since_begin < kPaceTime) return false;
  if (pace.usual_bytes_per_second <= 0) {
    return pace.since_begin >= kSilenceTime && pace.bytes_per_second < kAlmostNothing;
  }
  const auto remaining = static_cast<double>(pace.remaining_bytes);
  const double anew = kConnectSeconds + remaining / pace.usual_bytes_per_second;
  return pace.bytes_per_second * kTimesBetter * anew < remaining;
}

}  // namespace modeld
