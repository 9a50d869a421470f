// What a hub's refusals and failing transfers mean: the reason for people, and whether asking again
// can help. The order of the rules is that of hub-protocol.md 3.7.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "server/curl/http_client.h"

namespace modeld {

// What was asked for, for messages.
struct HubSubject {
  std::string endpoint;
  std::string repo;
  std::string revision;          // empty: none was part of the request
  std::string path;              // empty: as above
  std::string token_credential;  // whose token was sent; empty: the daemon's own
};

struct HubFailure {
  absl::Status status;                            // OK: no failure
  bool retry = false;                             // the same request may succeed later
  bool unreachable = false;                       // nobody answered: no host, no connection, no TLS
  std::optional<std::chrono::milliseconds> wait;  // what the server asked for
  std::string reason;                             // for a metric: "status_503", "cut", "nonsense"
};

// An answer with a status of 400 or more from the hub's own origin (or one that it trusts).
HubFailure HubRefusal(const HttpResponse& response, const HubSubject& subject);

// The same from a storage host, which knows nothing of repositories. 401 and 403 mean that the
// signed URL is not good any more: locate the file again.
HubFailure StorageRefusal(const HttpResponse& response, const HubSubject& subject);

// A transfer that failed below HTTP. CANCELLED and errors of callbacks stay as they are.
HubFailure TransferFailure(const absl::Status& status, const HubSubject& subject);

// HUB_UNAVAILABLE about `subject`, for answers that make no sense; `retry` as given.
HubFailure NonsenseAnswer(std::string_view what, const HubSubject& subject, bool retry);

// How long RateLimit ("r=0;t=12") or Retry-After ask to wait, with a second to spare; at most an
// hour.
std::optional<std::chrono::milliseconds> AskedWait(const HttpResponse& response);

// What RateLimit ("resolvers";r=2999;t=287) and RateLimit-Policy ("fixed window";"resolvers";
// q=3000;w=300) say; of several limits the one with the fewest requests left.
struct RequestQuota {
  int64_t left = 0;
  std::chrono::seconds reset{0};   // until the window ends
  int64_t quota = 0;               // of a window; 0: not said
  std::chrono::seconds window{0};  // 0: not said
};
std::optional<RequestQuota> ParseQuota(const HttpResponse& response);

}  // namespace modeld
