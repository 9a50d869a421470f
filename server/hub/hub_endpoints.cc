#include "server/hub/hub_endpoints.h"

#include <algorithm>

#include "server/curl/url.h"

namespace modeld {
namespace {

constexpr std::chrono::seconds kAside{60};
constexpr const char* kPublicHub[] = {"https://huggingface.co", "https://hub-ci.huggingface.co",
                                      "https://hf.co"};

bool IsPublicHub(const std::string& url) {
  return std::ranges::any_of(kPublicHub, [&](const char* hub) { return SameOrigin(hub, url); });
}

std::string WithoutSlash(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  return url;
}

}  // namespace

HubEndpoints::HubEndpoints(const std::string& endpoint, const std::vector<HubMirror>& mirrors,
                           Clock& clock)
    : clock_(clock) {
  endpoints_.push_back({WithoutSlash(endpoint), true});
  for (const HubMirror& mirror : mirrors) {
    endpoints_.push_back({WithoutSlash(mirror.url), mirror.send_token});
  }
  public_hub_ = IsPublicHub(endpoints_.front().url);
  aside_until_.resize(endpoints_.size());
}

std::vector<std::string> HubEndpoints::Order() const {
  const auto now = clock_.Steady();
  std::vector<std::string> order;
  std::vector<std::string> aside;
  MutexLock lock(mutex_);
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    (aside_until_[i] > now ? aside : order).push_back(endpoints_[i].url);
  }
  order.insert(order.end(), aside.begin(), aside.end());
  return order;
}

bool HubEndpoints::SetAside(const std::string& endpoint) {
  if (!has_mirrors()) return false;
  const auto now = clock_.Steady();
  MutexLock lock(mutex_);
  for (size_t i = 0; i < endpoints_.size(); ++i) {
    if (endpoints_[i].url != endpoint || aside_until_[i] > now) continue;
    aside_until_[i] = now + kAside;
    return true;
  }
  return false;
}

bool HubEndpoints::IsHub(const std::string& url) const {
  return IsPublicHub(url) || std::ranges::any_of(endpoints_, [&](const Endpoint& endpoint) {
           return SameOrigin(endpoint.url, url);
         });
}

bool HubEndpoints::GetsToken(const std::string& url) const {
  if (public_hub_ && IsPublicHub(url)) return true;
  return std::ranges::any_of(endpoints_, [&](const Endpoint& endpoint) {
    return endpoint.gets_token && SameOrigin(endpoint.url, url);
  });
}

}  // namespace modeld
