#include "server/core/repo.h"

#include <algorithm>
#include <set>

#include "server/core/reason.h"

namespace modeld {
namespace {

bool IsLowerHex(std::string_view text) {
  return text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

bool IsIdChar(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.' || c == '-';
}

bool IsIdPart(std::string_view part) {
  if (part.empty() || part.size() > 96) return false;
  if (!std::all_of(part.begin(), part.end(), IsIdChar)) return false;
  const auto edge = [](char c) { return c == '-' || c == '.'; };
  if (edge(part.front()) || edge(part.back())) return false;
  return part.find("--") == std::string_view::npos && part.find("..") == std::string_view::npos;
}

bool HasControlChar(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

// A few bytes of untrusted text for a message, control characters replaced.
std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, 200)) {
    out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return out + (text.size() > 200 ? "...\"" : "\"");
}

absl::Status BadPath(std::string_view path, std::string_view why) {
  return Error(Reason::kInvalidRepository,
               "file name " + Quoted(path) + " in the repository " + std::string(why));
}

}  // namespace

absl::Status ValidateRepoId(std::string_view id) {
  const auto bad = [&](std::string_view why) {
    return InvalidField("hf_path", Quoted(id) + " is not a repository id: " + std::string(why));
  };
  if (id.empty()) return bad("it is empty");
  const size_t slash = id.find('/');
  const std::string_view name = slash == std::string_view::npos ? id : id.substr(slash + 1);
  if (slash != std::string_view::npos && !IsIdPart(id.substr(0, slash))) {
    return bad("the namespace must be 1 to 96 of A-Z a-z 0-9 _ . - (not at an edge, not doubled)");
  }
  if (!IsIdPart(name)) {
    return bad("the name must be 1 to 96 of A-Z a-z 0-9 _ . - (not at an edge, not doubled)");
  }
  if (name.ends_with(".git")) return bad("it ends in .git");
  return absl::OkStatus();
}

std::string RepoFolder(std::string_view id) {
  std::string folder = "models--";
  for (const char c : id) {
    if (c == '/') {
      folder += "--";
    } else {
      folder += c;
    }
  }
  return folder;
}

absl::Status ValidateRevision(std::string_view revision) {
  const auto bad = [&](std::string_view why) {
    return InvalidField("revision", Quoted(revision) + " " + std::string(why));
  };
  if (revision.empty()) return bad("is empty");
  if (revision.size() > 255) return bad("is longer than 255 bytes");
  if (HasControlChar(revision)) return bad("has a control character");
  if (revision.find_first_of(":\\ ~^?*[") != std::string_view::npos) {
    return bad("has a character that no git ref has");
  }
  if (revision.front() == '/' || revision.back() == '/' || revision.front() == '-' ||
      revision.find("//") != std::string_view::npos ||
      revision.find("..") != std::string_view::npos ||
      ("/" + std::string(revision)).find("/.") != std::string::npos) {
    return bad("is not a branch, tag or commit");
  }
  return absl::OkStatus();
}

bool IsCommit(std::string_view revision) { return revision.size() == 40 && IsLowerHex(revision); }

bool IsBlobName(std::string_view etag) {
  return (etag.size() == 40 || etag.size() == 64) && IsLowerHex(etag);
}

absl::Status ValidateFilePath(std::string_view path) {
  if (path.empty()) return BadPath(path, "is empty");
  if (path.front() == '/') return BadPath(path, "is absolute");
  if (path.find('\\') != std::string_view::npos) return BadPath(path, "has a backslash");
  if (HasControlChar(path)) return BadPath(path, "has a control character");
  if (path.size() >= 2 && path[1] == ':') return BadPath(path, "has a drive letter");
  size_t begin = 0;
  while (begin <= path.size()) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view segment = path.substr(begin, end - begin);
    if (segment.empty()) return BadPath(path, "has an empty segment");
    if (segment == "." || segment == "..") return BadPath(path, "leaves its folder");
    if (segment.size() > 255) return BadPath(path, "has a segment longer than 255 bytes");
    begin = end + 1;
  }
  return absl::OkStatus();
}

int64_t TotalBytes(const std::vector<RepoFile>& files) {
  std::set<std::string_view> seen;
  int64_t total = 0;
  for (const RepoFile& file : files) {
    if (seen.insert(file.blob).second) total += file.size_bytes;
  }
  return total;
}

}  // namespace modeld
