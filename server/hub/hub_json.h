// The hub's JSON answers and the Link header as values. Everything in them is untrusted.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/repo.h"
#include "server/curl/http_client.h"

namespace modeld {

// "sha" of GET /api/models/{repo}/revision/{revision}. INVALID_ARGUMENT: no JSON object;
// INVALID_REPOSITORY: "sha" is no commit.
absl::StatusOr<std::string> ParseRevision(std::string_view json);

// Appends the files of one page of GET /api/models/{repo}/tree/{revision}. INVALID_ARGUMENT: no
// JSON array; INVALID_REPOSITORY: a path or blob name that no honest hub has, a size below 0.
absl::Status AppendTreePage(std::string_view json, std::vector<RepoFile>& files);

// Sorts by path. INVALID_REPOSITORY when a path is there twice, is the folder of another one, or
// when two files give one blob different sizes.
absl::Status FinishListing(std::vector<RepoFile>& files);

// The URL of the relation rel="next" among all Link headers.
std::optional<std::string> NextLink(const HttpResponse& response);

// An ETag or X-Linked-Etag as the name of a blob: without W/ and quotes. Not checked.
std::string NormaliseEtag(std::string_view etag);

}  // namespace modeld
