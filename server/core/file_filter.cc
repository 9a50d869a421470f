#include "server/core/file_filter.h"

#include <algorithm>
#include <optional>

#include "server/core/reason.h"

namespace modeld {
namespace {

// Length in bytes of the UTF-8 character that begins `text`; 1 for a stray byte.
size_t CharLength(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text.front());
  const size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
  return std::min(n, text.size());
}

// The set "[...]" at the start of `pattern`: its length and whether it holds `c`. Nothing when
// there is no closing bracket: '[' then stands for itself.
struct SetMatch {
  size_t length;
  bool holds;
};
std::optional<SetMatch> MatchSet(std::string_view pattern, std::string_view c) {
  size_t at = 1;
  const bool negated = at < pattern.size() && pattern[at] == '!';
  if (negated) ++at;
  const size_t first = at;
  size_t close = at;
  if (close < pattern.size() && pattern[close] == ']') ++close;
  while (close < pattern.size() && pattern[close] != ']') ++close;
  if (close >= pattern.size()) return std::nullopt;
  bool holds = false;
  at = first;
  while (at < close) {
    const std::string_view low = pattern.substr(at, CharLength(pattern.substr(at)));
    at += low.size();
    if (at + 1 < close && pattern[at] == '-') {
      const std::string_view high = pattern.substr(at + 1, CharLength(pattern.substr(at + 1)));
      at += 1 + high.size();
      // UTF-8 sorts by code point, so bytes compare as characters do.
      holds |= low <= c && c <= high;
    } else {
      holds |= low == c;
    }
  }
  return SetMatch{close + 1, holds != negated};
}

bool Match(std::string_view path, std::string_view pattern) {
  // The usual walk with one place to come back to: the last '*'.
  size_t p = 0;
  size_t s = 0;
  size_t star = std::string_view::npos;
  size_t star_s = 0;
  while (s < path.size()) {
    const size_t n = CharLength(path.substr(s));
    const std::string_view c = path.substr(s, n);
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_s = s;
      continue;
    }
    if (p < pattern.size()) {
      const auto set = pattern[p] == '[' ? MatchSet(pattern.substr(p), c) : std::nullopt;
      if (set ? set->holds : pattern[p] == '?' || pattern.substr(p, n) == c) {
        p += set ? set->length : pattern[p] == '?' ? 1 : n;
        s += n;
        continue;
      }
    }
    if (star == std::string_view::npos) return false;
    p = star + 1;
    star_s += CharLength(path.substr(star_s));
    s = star_s;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace

bool MatchesPattern(std::string_view path, std::string_view pattern) {
  if (pattern.ends_with('/')) return Match(path, std::string(pattern) + "*");
  return Match(path, pattern);
}

bool FileFilter::Keeps(std::string_view path) const {
  const auto matches = [&](const std::string& pattern) { return MatchesPattern(path, pattern); };
  if (!allow_patterns.empty() && std::ranges::none_of(allow_patterns, matches)) return false;
  return std::ranges::none_of(ignore_patterns, matches);
}

std::vector<RepoFile> FileFilter::Apply(const std::vector<RepoFile>& files) const {
  std::vector<RepoFile> kept;
  for (const RepoFile& file : files) {
    if (Keeps(file.path)) kept.push_back(file);
  }
  return kept;
}

absl::Status ValidateFileFilter(const FileFilter& filter) {
  const auto check = [](std::string_view field, const std::vector<std::string>& patterns) {
    if (patterns.size() > 1000) return InvalidField(field, "more than 1000 patterns");
    for (const std::string& pattern : patterns) {
      if (pattern.empty()) return InvalidField(field, "a pattern is empty");
      if (pattern.size() > 1000) return InvalidField(field, "a pattern is longer than 1000 bytes");
    }
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(check("allow_patterns", filter.allow_patterns));
  return check("ignore_patterns", filter.ignore_patterns);
}

}  // namespace modeld
