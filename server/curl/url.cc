#include "server/curl/url.h"

#include <curl/curl.h>

#include <algorithm>
#include <memory>

#include "absl/status/status.h"

namespace modeld {
namespace {

using UrlHandle = std::unique_ptr<CURLU, decltype(&curl_url_cleanup)>;

absl::Status BadUrl(std::string_view url, std::string_view why) {
  return absl::InvalidArgumentError(UrlForLog(url) + " " + std::string(why));
}

std::string PartOf(const UrlHandle& url, CURLUPart part, unsigned flags) {
  char* text = nullptr;
  if (curl_url_get(url.get(), part, &text, flags) != CURLUE_OK) return "";
  std::string out = text;
  curl_free(text);
  return out;
}

// Parses `reference` against `base`; an empty base means that it must be absolute.
absl::StatusOr<UrlHandle> Parse(const std::string& base, const std::string& reference) {
  UrlHandle url(curl_url(), &curl_url_cleanup);
  if (url == nullptr) return absl::ResourceExhaustedError("no memory for a URL");
  if (!base.empty() && curl_url_set(url.get(), CURLUPART_URL, base.c_str(), 0) != CURLUE_OK) {
    return BadUrl(base, "is no URL");
  }
  if (curl_url_set(url.get(), CURLUPART_URL, reference.c_str(), 0) != CURLUE_OK) {
    return BadUrl(reference, "is no URL");
  }
  const std::string scheme = PartOf(url, CURLUPART_SCHEME, 0);
  if (scheme != "http" && scheme != "https") return BadUrl(reference, "is neither http nor https");
  if (PartOf(url, CURLUPART_HOST, 0).empty()) return BadUrl(reference, "has no host");
  return url;
}

bool IsUnreserved(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
         c == '.' || c == '_' || c == '~';
}

}  // namespace

absl::StatusOr<std::string> UrlOrigin(const std::string& url) {
  auto parsed = Parse("", url);
  if (!parsed.ok()) return parsed.status();
  std::string host = PartOf(*parsed, CURLUPART_HOST, 0);
  std::transform(host.begin(), host.end(), host.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  return PartOf(*parsed, CURLUPART_SCHEME, 0) + "://" + host + ":" +
         PartOf(*parsed, CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

bool SameOrigin(const std::string& a, const std::string& b) {
  const auto origin_a = UrlOrigin(a);
  const auto origin_b = UrlOrigin(b);
  return origin_a.ok() && origin_b.ok() && *origin_a == *origin_b;
}

absl::StatusOr<std::string> ResolveUrl(const std::string& base, const std::string& reference) {
  auto parsed = Parse(base, reference);
  if (!parsed.ok()) return parsed.status();
  curl_url_set(parsed->get(), CURLUPART_FRAGMENT, nullptr, 0);
  std::string url = PartOf(*parsed, CURLUPART_URL, 0);
  if (url.empty()) return BadUrl(reference, "is no URL");
  return url;
}

std::string PercentEncode(std::string_view text, std::string_view keep) {
  constexpr char kHex[] = "0123456789ABCDEF";
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (IsUnreserved(c) || keep.find(c) != std::string_view::npos) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    }
  }
  return out;
}

std::string UrlForLog(std::string_view url) {
  std::string out(url.substr(0, std::min(url.find_first_of("?#"), url.size())));
  const size_t scheme = out.find("://");
  if (scheme != std::string::npos) {
    const size_t authority = scheme + 3;
    const size_t end = std::min(out.find('/', authority), out.size());
    const size_t at = out.rfind('@', end);
    if (at != std::string::npos && at >= authority && at < end) {
      out.erase(authority, at + 1 - authority);
    }
  }
  if (out.size() > 200) out = out.substr(0, 197) + "...";
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

}  // namespace modeld
