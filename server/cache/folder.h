// What is in a folder of the cache, in order of the names.
#pragma once

#include <filesystem>
#include <vector>

#include "absl/status/statusor.h"

namespace modeld {

// Errors name the folder: what it holds is not known then, and nothing may be concluded from it.
// NOT_FOUND when there is none; others as base/file.h has them.
absl::StatusOr<std::vector<std::filesystem::path>> EntriesOf(const std::filesystem::path& folder);

// Everything below `folder` that is no folder itself; links are not followed. Folders that go away
// meanwhile are empty, also `folder`.
absl::StatusOr<std::vector<std::filesystem::path>> LeavesOf(const std::filesystem::path& folder);

}  // namespace modeld
