// What lies in a snapshot folder.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core/repo.h"

namespace modeld {

// The files below `folder` with their sizes, links followed, sorted by path. `blob` is the name
// that a link gives, or the path of a file that lies there itself. NOT_FOUND when the folder or
// what a link points to is not there.
absl::StatusOr<std::vector<RepoFile>> ListFolder(const std::string& folder);

}  // namespace modeld
