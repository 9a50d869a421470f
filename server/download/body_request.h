// One request for some bytes of a file: what its answer means, and its bytes to whoever wants them.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "server/cache/part_journal.h"
#include "server/curl/http_client.h"

namespace modeld {

// What one request came to.
enum class BodyVerdict {
  kWhole,     // all the bytes asked for came
  kTryAgain,  // nothing is wrong with the place: a cut, a stall, 5xx, 429, an answer that makes no
              // sense
  kRedirect,  // `location` has the body
  kGone,      // 4xx: the place is not good (any more), ask the hub
  kFailed,    // `status` is final: the taker of the bytes, a stop
};

struct BodyResult {
  BodyVerdict verdict = BodyVerdict::kFailed;
  absl::Status status;   // why, unless kWhole; no secret in it
  std::string reason;    // of kTryAgain, as the metric's label: "cut", "status_503", ...
  std::string location;  // of kRedirect, as the server sent it
  std::optional<std::chrono::milliseconds> retry_after;
  int64_t taken_bytes = 0;    // given to the taker
  int64_t skipped_bytes = 0;  // came, but were not asked for
};

struct BodyRequest {
  std::string url;  // may be signed
  std::string bearer_token;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds stall_timeout{20'000};
  ByteRange range;         // never empty
  int64_t size_bytes = 0;  // of the whole file
  // Ask for the whole file and skip what is before `range`, which then goes to the end: for servers
  // whose ranges are wrong. Also so when `range` is all there is.
  bool without_range = false;
  std::function<void(const HttpResponse&)> on_headers = {};  // of every answer
};

// Hands the bytes of `range` in order to `take`, whose error ends it; a stall is noticed on the
// time between its calls. Also ended when almost nothing comes for the stall timeout.
BodyResult FetchBody(HttpClient& http, const BodyRequest& request,
                     const std::function<absl::Status(std::span<const char>)>& take,
                     std::stop_token stop);

}  // namespace modeld
