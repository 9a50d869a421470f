// Which files of a repository are wanted: allow and ignore patterns as huggingface_hub reads them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/core/repo.h"

namespace modeld {

// Python's fnmatchcase: case-sensitive, '*' and '?' match '/' too, [seq], [!seq], no escapes.
// A pattern that ends in '/' means everything below it.
bool MatchesPattern(std::string_view path, std::string_view pattern);

// Keeps a file when (there is no allow pattern or one matches) and no ignore pattern matches.
struct FileFilter {
  std::vector<std::string> allow_patterns;
  std::vector<std::string> ignore_patterns;

  bool empty() const { return allow_patterns.empty() && ignore_patterns.empty(); }
  bool Keeps(std::string_view path) const;
  std::vector<RepoFile> Apply(const std::vector<RepoFile>& files) const;

  bool operator==(const FileFilter&) const = default;
};

// INVALID_FIELD for an empty pattern, one above 1,000 bytes, or more than 1,000 patterns.
absl::Status ValidateFileFilter(const FileFilter& filter);

}  // namespace modeld
