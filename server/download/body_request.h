// One request for the rest of a file: what its answer means, and its bytes into the part file.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "server/curl/http_client.h"
#include "server/download/part_file.h"

namespace modeld {

// What one request came to.
enum class BodyVerdict {
  kWhole,     // the part has all its bytes
  kTryAgain,  // nothing is wrong with the place: a cut, a stall, 5xx, 429, an answer that makes no
              // sense
  kRedirect,  // `location` has the body
  kGone,      // 4xx: the place is not good (any more), ask the hub
  kFailed,    // `status` is final: the disk, a stop
};

struct BodyResult {
  BodyVerdict verdict = BodyVerdict::kFailed;
  absl::Status status;   // why, unless kWhole; no secret in it
  std::string reason;    // of kTryAgain, as the metric's label: "cut", "status_503", ...
  std::string location;  // of kRedirect, as the server sent it
  std::optional<std::chrono::milliseconds> retry_after;
  bool range_ignored = false;  // the answer began at 0 though a later byte was asked for
  int64_t body_bytes = 0;      // that came and were meant for the part
};

struct BodyRequest {
  std::string url;  // may be signed
  std::string bearer_token;
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds stall_timeout{20'000};
  bool without_range =
      false;  // ask for all and skip what is there: for servers whose ranges are wrong
  std::function<void(const HttpResponse&)> on_headers;  // of every answer; may be empty
};

// Fetches the bytes from part.received() on. A 200 to a range is read from its beginning and the
// bytes that are there are skipped: whether they are the same the digest tells. `on_bytes` is
// called for each piece received.
BodyResult FetchBody(HttpClient& http, const BodyRequest& request, PartFile& part,
                     const std::function<void(int64_t)>& on_bytes, std::stop_token stop);

}  // namespace modeld
