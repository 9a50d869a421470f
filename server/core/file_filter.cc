#include "server/core/file_filter.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>

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

// Where a repository has weights that are loaded.
class WeightFolders {
 public:
  explicit WeightFolders(const std::vector<RepoFile>& files) {
    for (const RepoFile& file : files) {
      const std::string_view name = NameOf(file.path);
      const bool is_safe = name == "model.safetensors" || name == "model.safetensors.index.json";
      const bool is_torch = name == "pytorch_model.bin" || name == "pytorch_model.bin.index.json";
      if (is_safe) safe_.insert(FolderOf(file.path));
      has_any_ |= (is_safe || is_torch) && FolderOf(file.path).empty();
    }
  }

  // Why nobody needs `path`, or an empty text.
  std::string WhyNeedless(std::string_view path) const {
    if (!has_any_) return "";
    constexpr std::pair<std::string_view, const char*> kEndings[] = {
        {".onnx", "ONNX, which is not loaded"}, {".onnx_data", "ONNX, which is not loaded"},
        {".gguf", "GGUF, which is not loaded"}, {".h5", "TensorFlow weights, which are not loaded"},
        {".pth", "weights of another program"}, {".msgpack", "Flax weights, which are not loaded"}};
    if (path.starts_with("original/")) return "weights of another program, below original/";
    if (path.starts_with("onnx/")) return "ONNX, which is not loaded";
    for (const auto& [ending, why] : kEndings) {
      if (path.ends_with(ending)) return why;
    }
    const bool is_bin = path.ends_with(".bin") || path.ends_with(".bin.index.json");
    return is_bin && safe_.contains(FolderOf(path)) ? "beside safetensors, which are loaded" : "";
  }

 private:
  // "a" of "a/b.bin", "" of "b.bin".
  static std::string_view FolderOf(std::string_view path) {
    const size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
  }
  static std::string_view NameOf(std::string_view path) { return path.substr(path.rfind('/') + 1); }

  std::set<std::string_view> safe_;  // of the files' paths
  bool has_any_ = false;
};

// Empty for a file that is kept.
std::string WhyNot(const FileFilter& filter, const WeightFolders& folders, std::string_view path) {
  const auto matches = [&](const std::string& pattern) { return MatchesPattern(path, pattern); };
  const auto ignored = std::ranges::find_if(filter.ignore_patterns, matches);
  if (ignored != filter.ignore_patterns.end()) return "matches ignore pattern " + *ignored;
  if (filter.allow_patterns.empty()) return folders.WhyNeedless(path);
  return std::ranges::any_of(filter.allow_patterns, matches) ? "" : "matches no allow pattern";
}

}  // namespace

bool MatchesPattern(std::string_view path, std::string_view pattern) {
  if (pattern.ends_with('/')) return Match(path, std::string(pattern) + "*");
  return Match(path, pattern);
}

std::vector<RepoFile> FileFilter::Apply(const std::vector<RepoFile>& files) const {
  const WeightFolders folders(files);
  std::vector<RepoFile> kept;
  for (const RepoFile& file : files) {
    if (WhyNot(*this, folders, file.path).empty()) kept.push_back(file);
  }
  return kept;
}

std::vector<LeftOutFile> FileFilter::LeftOut(const std::vector<RepoFile>& files) const {
  const WeightFolders folders(files);
  std::vector<LeftOutFile> left_out;
  for (const RepoFile& file : files) {
    const std::string why = WhyNot(*this, folders, file.path);
    if (!why.empty()) left_out.push_back({file, why});
  }
  return left_out;
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
