// A part of a file that one connection fetches with one request.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>

#include "server/cache/part_journal.h"

namespace modeld {

struct Segment {
  Segment(ByteRange bytes, bool second, std::chrono::steady_clock::time_point now)
      : range(bytes), end(bytes.end), again(second), begun(now), sampled_at(now) {}

  const ByteRange range;
  std::atomic<int64_t> end;  // of what is left to it: another connection may have taken the rest
  const bool again;          // another connection is slow at it
  const std::chrono::steady_clock::time_point begun;
  std::atomic<int64_t> received{0};  // bytes of it that came
  std::stop_source stop;             // ends this request alone

  // What became of it, once it has ended.
  int64_t written = 0;   // bytes that nobody had written before
  bool refused = false;  // the host wants no connection more

  // The pool's; its mutex guards them.
  std::string origin;        // it is fetched from
  bool asked_again = false;  // another connection has the rest of it too
  std::chrono::steady_clock::time_point sampled_at;
  int64_t sampled = 0;           // `received` at that time
  double bytes_per_second = -1;  // lately; below 0: not known yet
};

// How much the next request asks for: about a second's worth at the rate of one connection (0: not
// known), and less where `connections` share the last `open_bytes`, so that all end together and
// the digest, which needs them in order, is not far behind then. All of the rest when what would be
// left is not worth a request.
int64_t SegmentBytes(double bytes_per_second, int64_t open_bytes, int connections);

// How much of the last `left_bytes` of a segment a connection that has nothing else to do takes
// over from one that brings `bytes_per_second`; 0: what is left is not worth a request.
int64_t TakenOverBytes(int64_t left_bytes, double bytes_per_second);

// How much longer the rest of a segment takes than a new connection would need for it.
struct SegmentPace {
  int64_t remaining_bytes = 0;
  double bytes_per_second = 0;        // of it, lately
  double usual_bytes_per_second = 0;  // of a connection to that host; 0: not known
  std::chrono::nanoseconds since_begin{0};
};
// Whether to ask for the rest of it again.
bool Crawls(const SegmentPace& pace);

}  // namespace modeld
