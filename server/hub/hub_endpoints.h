// The hub and its mirrors: in which order they are asked, and who of them gets a token.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "server/base/clock.h"
#include "server/base/mutex.h"

namespace modeld {

// A server that has what the hub has.
struct HubMirror {
  std::string url;          // without a trailing slash
  bool send_token = false;  // whether it gets the tokens that are for the hub

  bool operator==(const HubMirror&) const = default;
};

// The endpoint is the first, the mirrors follow as configured. One that was found away is asked
// last for a while. Thread-safe.
class HubEndpoints {
 public:
  HubEndpoints(const std::string& endpoint, const std::vector<HubMirror>& mirrors, Clock& clock);

  // URLs without a trailing slash, in the order to ask in now.
  std::vector<std::string> Order() const;
  // The hub itself, whose refusals count; a mirror need not have everything.
  const std::string& first() const { return endpoints_.front().url; }
  bool has_mirrors() const { return endpoints_.size() > 1; }

  // The endpoint does not answer, or bytes from there do not come or are wrong: others are asked
  // before it for a minute. False when it was set aside already, or is the only one.
  bool SetAside(const std::string& endpoint);

  // Whether `url` is of an endpoint, or of the public hub's own origins (hub-protocol.md 3.4).
  bool IsHub(const std::string& url) const;
  // Whether the tokens may go to `url`: the endpoint's origin, that of a mirror with send_token,
  // and all of the public hub's when the endpoint is one of them.
  bool GetsToken(const std::string& url) const;

 private:
  struct Endpoint {
    std::string url;
    bool gets_token = false;
  };
  std::vector<Endpoint> endpoints_;  // constant after construction
  bool public_hub_ = false;          // constant after construction: the first is the public hub
  Clock& clock_;
  mutable Mutex mutex_;
  std::vector<std::chrono::steady_clock::time_point> aside_until_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
