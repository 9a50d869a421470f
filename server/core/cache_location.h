// Where a model's files lie: which root, and the rules for a path of one's own (no I/O).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

enum class CacheLocation { kPrimary, kSecondary, kCustom };

// "primary", "secondary", "custom".
std::string_view CacheLocationName(CacheLocation location);
// INVALID_FIELD (field "cache_location") for anything else.
absl::StatusOr<CacheLocation> ParseCacheLocation(std::string_view name);

// The configured roots: what `cache.*` says, after the environment was looked at. Absolute paths.
struct CacheRoots {
  std::string primary;
  std::string secondary;                  // empty: none
  std::vector<std::string> custom_roots;  // a custom path lies below one of these
};

// The cache path that a request means. For kPrimary and kSecondary `custom_path` must be empty.
// INVALID_FIELD: secondary is not configured (field "cache_location"); a custom path that is
// missing, relative, has "." or ".." in it, or is below no custom root (field "cache_path").
// Symlinks are for the caller to check (cache/space.h).
absl::StatusOr<std::string> ResolveCachePath(const CacheRoots& roots, CacheLocation location,
                                             std::string_view custom_path);

// $HF_HOME when set and not empty, else $XDG_CACHE_HOME/huggingface, else
// <home>/.cache/huggingface.
std::string DefaultCachePath(const char* hf_home, const char* xdg_cache_home,
                             std::string_view home);

// Whether `path` is `root` or below it; both absolute and without "." or "..".
bool IsBelow(std::string_view path, std::string_view root);

}  // namespace modeld
