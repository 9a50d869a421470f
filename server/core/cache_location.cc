#include "server/core/cache_location.h"

#include <algorithm>

#include "server/core/reason.h"

namespace modeld {
namespace {

// Without trailing slashes; "/" stays.
std::string_view Trimmed(std::string_view path) {
  while (path.size() > 1 && path.back() == '/') path.remove_suffix(1);
  return path;
}

bool HasDots(std::string_view path) {
  const std::string framed = std::string(path) + "/";
  return framed.find("/./") != std::string::npos || framed.find("/../") != std::string::npos ||
         framed.find("//") != std::string::npos;
}

}  // namespace

std::string_view CacheLocationName(CacheLocation location) {
  switch (location) {
    case CacheLocation::kPrimary:
      return "primary";
    case CacheLocation::kSecondary:
      return "secondary";
    case CacheLocation::kCustom:
      return "custom";
  }
  return "";
}

absl::StatusOr<CacheLocation> ParseCacheLocation(std::string_view name) {
  for (const CacheLocation location :
       {CacheLocation::kPrimary, CacheLocation::kSecondary, CacheLocation::kCustom}) {
    if (name == CacheLocationName(location)) return location;
  }
  return InvalidField("cache_location", "\"" + std::string(name.substr(0, 100)) +
                                            "\" is none of primary, secondary, custom");
}

absl::StatusOr<std::string> ResolveCachePath(const CacheRoots& roots, CacheLocation location,
                                             std::string_view custom_path) {
  if (location != CacheLocation::kCustom) {
    if (!custom_path.empty()) {
      return InvalidField("cache_path", "goes with cache_location custom only");
    }
    if (location == CacheLocation::kPrimary) return roots.primary;
    if (roots.secondary.empty()) {
      return InvalidField("cache_location", "no secondary cache is configured (cache.secondary)");
    }
    return roots.secondary;
  }
  const std::string path(Trimmed(custom_path));
  if (path.empty()) return InvalidField("cache_path", "is empty; cache_location custom needs it");
  if (path.size() > 4000 || path.find('\0') != std::string::npos) {
    return InvalidField("cache_path", "is not a path");
  }
  if (path.front() != '/') return InvalidField("cache_path", "\"" + path + "\" is not absolute");
  if (HasDots(path)) {
    return InvalidField("cache_path", "\"" + path + "\" has \".\", \"..\" or an empty segment");
  }
  const auto holds = [&](const std::string& root) { return IsBelow(path, root); };
  if (std::ranges::none_of(roots.custom_roots, holds)) {
    return InvalidField("cache_path",
                        "\"" + path + "\" is below none of the configured cache.custom_roots");
  }
  return path;
}

std::string DefaultCachePath(const char* hf_home, const char* xdg_cache_home,
                             std::string_view home) {
  const auto set = [](const char* value) { return value != nullptr && *value != '\0'; };
  if (set(hf_home)) return std::string(Trimmed(hf_home));
  if (set(xdg_cache_home)) return std::string(Trimmed(xdg_cache_home)) + "/huggingface";
  return std::string(Trimmed(home)) + "/.cache/huggingface";
}

bool IsBelow(std::string_view path, std::string_view root) {
  path = Trimmed(path);
  root = Trimmed(root);
  if (root.empty()) return false;
  if (root == "/") return path.starts_with('/');
  return path.starts_with(root) && (path.size() == root.size() || path[root.size()] == '/');
}

}  // namespace modeld
