// Page tokens: opaque, versioned, good for the query that gave them and for no other.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace modeld {

// `query` holds every field of the request that the pages depend on; `cursor` is where to go on.
std::string MakePageToken(std::string_view query, std::string_view cursor);

// The cursor; empty for an empty token. INVALID_FIELD (page_token) for what MakePageToken() did not
// make for this query.
absl::StatusOr<std::string> ReadPageToken(std::string_view query, std::string_view token);

// 0 means 50, above 1000 means 1000; INVALID_FIELD (page_size) below 0.
absl::StatusOr<int64_t> EffectivePageSize(int64_t page_size);

}  // namespace modeld
