// URLs: origins, relative references, percent-encoding. Pure functions over libcurl's parser.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace modeld {

// "https://host:443": scheme, lower-case host and port, the default port written out.
// INVALID_ARGUMENT unless `url` is http or https with a host.
absl::StatusOr<std::string> UrlOrigin(const std::string& url);

// Whether both are URLs of one origin.
bool SameOrigin(const std::string& a, const std::string& b);

// `reference` (absolute, or relative to `base`) as an absolute http(s) URL, its query kept, its
// fragment dropped.
absl::StatusOr<std::string> ResolveUrl(const std::string& base, const std::string& reference);

// Everything but A-Z a-z 0-9 - . _ ~ as %XX; also '/' unless `keep` has it.
std::string PercentEncode(std::string_view text, std::string_view keep = "");

// For messages and logs: without query, fragment and credentials, at most 200 bytes, no control
// characters.
std::string UrlForLog(std::string_view url);

}  // namespace modeld
