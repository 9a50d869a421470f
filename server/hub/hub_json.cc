#include "server/hub/hub_json.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

constexpr int64_t kFileBytesMax = int64_t{1} << 50;  // far above any file system's limit in use

absl::Status Invalid(const std::string& what) { return Error(Reason::kInvalidRepository, what); }

// The string at `key`, or "" when there is none.
std::string Text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

absl::StatusOr<int64_t> Size(const Json& object, const std::string& path) {
  const auto found = object.find("size");
  if (found == object.end() || !found->is_number_integer()) {
    return Invalid("file " + path + " in the listing has no size");
  }
  // A number beyond int64 comes as unsigned and becomes negative here.
  const auto bytes = found->get<int64_t>();
  if (bytes < 0 || bytes > kFileBytesMax) {
    return Invalid("file " + path + " in the listing has the size " + std::to_string(bytes));
  }
  return bytes;
}

absl::StatusOr<RepoFile> ParseFile(const Json& entry) {
  RepoFile file{.path = Text(entry, "path"),
                .git_oid = Text(entry, "oid"),
                .xet_hash = Text(entry, "xetHash")};
  RETURN_IF_ERROR(ValidateFilePath(file.path));
  if (file.git_oid.size() != 40 || !IsBlobName(file.git_oid)) {
    return Invalid("file " + file.path + " in the listing has no git object id");
  }
  ASSIGN_OR_RETURN(file.size_bytes, Size(entry, file.path));
  file.blob = file.git_oid;
  const auto lfs = entry.find("lfs");
  if (lfs != entry.end() && lfs->is_object()) {
    file.lfs = true;
    file.blob = Text(*lfs, "oid");
    if (file.blob.size() != 64 || !IsBlobName(file.blob)) {
      return Invalid("file " + file.path + " in the listing has no SHA-256");
    }
    ASSIGN_OR_RETURN(file.size_bytes, Size(*lfs, file.path));
  }
  return file;
}

std::string_view Trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// Whether the parameters of a link, such as `; rel="prev next"; title="a"`, name the relation next.
bool IsNext(std::string_view parameters) {
  const size_t rel = parameters.find("rel=");
  if (rel == std::string_view::npos) return false;
  std::string_view value = parameters.substr(rel + 4);
  if (value.starts_with('"')) {
    value.remove_prefix(1);
    value = value.substr(0, value.find('"'));
  } else {
    value = value.substr(0, value.find_first_of(";, "));
  }
  while (!value.empty()) {
    const std::string_view word = value.substr(0, value.find(' '));
    if (word == "next") return true;
    value.remove_prefix(std::min(word.size() + 1, value.size()));
  }
  return false;
}

// The end of the parameters that begin at `at`: a comma outside quotes.
size_t EndOfLink(std::string_view header, size_t at) {
  bool quoted = false;
  for (; at < header.size(); ++at) {
    if (header[at] == '"') quoted = !quoted;
    if (header[at] == ',' && !quoted) return at;
  }
  return header.size();
}

}  // namespace

absl::StatusOr<std::string> ParseRevision(std::string_view json) {
  const Json object = Json::parse(json, nullptr, false);
  if (!object.is_object()) return absl::InvalidArgumentError("no JSON object");
  std::string commit = Text(object, "sha");
  if (!IsCommit(commit)) return Invalid("the hub names no commit for the revision");
  return commit;
}

absl::Status AppendTreePage(std::string_view json, std::vector<RepoFile>& files) {
  const Json page = Json::parse(json, nullptr, false);
  if (!page.is_array()) return absl::InvalidArgumentError("no JSON array");
  for (const Json& entry : page) {
    if (!entry.is_object()) return Invalid("the listing has an entry that is no object");
    if (Text(entry, "type") != "file") continue;  // directories are made for their files
    ASSIGN_OR_RETURN(RepoFile file, ParseFile(entry));
    files.push_back(std::move(file));
  }
  return absl::OkStatus();
}

absl::Status FinishListing(std::vector<RepoFile>& files) {
  std::sort(files.begin(), files.end(),
            [](const RepoFile& a, const RepoFile& b) { return a.path < b.path; });
  std::set<std::string_view> paths;
  std::map<std::string_view, int64_t> sizes;
  for (const RepoFile& file : files) {
    if (!paths.insert(file.path).second) return Invalid("the listing has " + file.path + " twice");
    const auto [known, fresh] = sizes.emplace(file.blob, file.size_bytes);
    if (!fresh && known->second != file.size_bytes) {
      return Invalid("the listing gives blob " + file.blob + " two sizes, " +
                     std::to_string(known->second) + " and " + std::to_string(file.size_bytes));
    }
  }
  for (const RepoFile& file : files) {
    for (size_t slash = file.path.find('/'); slash != std::string::npos;
         slash = file.path.find('/', slash + 1)) {
      const std::string folder = file.path.substr(0, slash);
      if (paths.contains(folder)) {
        return Invalid("the listing has " + folder + " as a file and as a folder");
      }
    }
  }
  return absl::OkStatus();
}

std::optional<std::string> NextLink(const HttpResponse& response) {
  for (const std::string_view header : response.HeadersOf("Link")) {
    size_t at = 0;
    while ((at = header.find('<', at)) != std::string_view::npos) {
      const size_t close = header.find('>', at);
      if (close == std::string_view::npos) break;
      const size_t end = EndOfLink(header, close);
      if (IsNext(header.substr(close, end - close))) {
        return std::string(Trimmed(header.substr(at + 1, close - at - 1)));
      }
      at = end;
    }
  }
  return std::nullopt;
}

std::string NormaliseEtag(std::string_view etag) {
  etag = Trimmed(etag);
  etag.remove_prefix(std::min(etag.find_first_not_of("W/"), etag.size()));
  while (etag.starts_with('"')) etag.remove_prefix(1);
  while (etag.ends_with('"')) etag.remove_suffix(1);
  return std::string(etag);
}

}  // namespace modeld
