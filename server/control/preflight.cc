#include "server/control/preflight.h"

#include <fcntl.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "absl/strings/escaping.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "config.json";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kSingleWeightFile[] = "model.safetensors";
constexpr char kModulesFile[] = "modules.json";
// Each is a request; published repositories have at most six of some hundred bytes.
constexpr size_t kModuleTextsMax = 32;
constexpr int64_t kModuleTextBytesMax = 64 << 10;
constexpr int64_t kSmallFileBytesMax = 64 << 20;
// safetensors' own limit of a header, and what fits into inspect's 256 MB of input as base64.
constexpr int64_t kHeaderBytesMax = 100 << 20;
constexpr int64_t kHeadersBytesMax = 150 << 20;
// Most headers are smaller, so that one read does.
constexpr int64_t kFirstReadBytes = 256 << 10;

const RepoFile* Find(const std::vector<RepoFile>& files, std::string_view path) {
  const auto found = std::ranges::find(files, path, &RepoFile::path);
  return found == files.end() ? nullptr : &*found;
}

absl::StatusOr<std::string> ReadSmallFile(const RangeReader& read, const RepoFile& file) {
  if (file.size_bytes > kSmallFileBytesMax) {
    return Error(Reason::kInvalidRepository,
                 file.path + " has " + FormatBytes(file.size_bytes) + ", more than any honest one");
  }
  if (file.size_bytes == 0) return std::string();
  return read(file.path, 0, file.size_bytes);
}

// The length that the first 8 bytes give, little-endian; nothing when it cannot be one: inspect
// then says what is wrong from those bytes.
int64_t HeadLength(std::string_view start, int64_t file_bytes) {
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(start[i]);
  if (length > static_cast<uint64_t>(kHeaderBytesMax)) return 8;
  return std::min(file_bytes, 8 + static_cast<int64_t>(length));
}

absl::StatusOr<std::string> ReadHead(const RangeReader& read, const RepoFile& file) {
  if (file.size_bytes < 8) return ReadSmallFile(read, file);
  ASSIGN_OR_RETURN(std::string head,
                   read(file.path, 0, std::min(file.size_bytes, kFirstReadBytes)));
  if (std::ssize(head) < 8) return head;
  const int64_t length = HeadLength(head, file.size_bytes);
  if (length > std::ssize(head)) {
    ASSIGN_OR_RETURN(const std::string rest,
                     read(file.path, std::ssize(head), length - std::ssize(head)));
    head += rest;
  }
  head.resize(static_cast<size_t>(std::min(length, std::ssize(head) + int64_t{0})));
  return head;
}

absl::StatusOr<json> ReadHeads(const RangeReader& read, const std::vector<RepoFile>& files,
                               const std::vector<std::string>& weight_files) {
  json heads = json::object();
  int64_t bytes = 0;
  for (const std::string& path : weight_files) {
    const RepoFile* file = Find(files, path);
    if (file == nullptr) continue;
    ASSIGN_OR_RETURN(const std::string head, ReadHead(read, *file));
    bytes += std::ssize(head);
    if (bytes > kHeadersBytesMax) {
      return Error(Reason::kInvalidRepository, "the headers of the weight files have more than " +
                                                   FormatBytes(kHeadersBytesMax));
    }
    heads[path] = absl::Base64Escape(head);
  }
  return heads;
}

// What else says how texts become vectors; nothing without a modules.json.
absl::StatusOr<json> ReadModuleTexts(const RangeReader& read, const std::vector<RepoFile>& files) {
  json texts = json::object();
  if (Find(files, kModulesFile) == nullptr) return texts;
  for (const RepoFile& file : files) {
    const size_t slash = file.path.find('/');
    const bool is_modules_config =
        slash != std::string::npos && file.path.substr(slash) == "/config.json";
    const bool is_text =
        file.path == kModulesFile || is_modules_config ||
        (file.path.starts_with("sentence_") && file.path.ends_with("_config.json"));
    if (!is_text || file.size_bytes > kModuleTextBytesMax) continue;
    ASSIGN_OR_RETURN(texts[file.path], ReadSmallFile(read, file));
    if (texts.size() == kModuleTextsMax) break;
  }
  return texts;
}

absl::StatusOr<std::string> ReadRangeOfFile(const std::string& full, int64_t offset,
                                            int64_t length) {
  ASSIGN_OR_RETURN(const UniqueFd file, OpenFile(full, O_RDONLY));
  std::string bytes(static_cast<size_t>(length), '\0');
  ASSIGN_OR_RETURN(const int64_t count, ReadAt(file.get(), std::span<char>(bytes), offset, full));
  bytes.resize(static_cast<size_t>(count));
  return bytes;
}

std::string Dump(const json& input) {
  return input.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace

RangeReader HubReader(HubClient& hub, HubRepo repo, std::string commit,
                      HubClient::Patience patience, std::stop_token stop) {
  return [&hub, repo = std::move(repo), commit = std::move(commit), patience,
          stop = std::move(stop)](const std::string& path, int64_t offset, int64_t length) {
    return hub.ReadRange(repo, commit, path, offset, length, patience, stop);
  };
}

RangeReader CacheReader(RepoCache cache, std::vector<RepoFile> files, RangeReader rest) {
  return [cache = std::move(cache), files = std::move(files), rest = std::move(rest)](
             const std::string& path, int64_t offset, int64_t length) {
    const RepoFile* file = Find(files, path);
    if (file == nullptr || !cache.HasBlob(*file)) return rest(path, offset, length);
    return ReadRangeOfFile(cache.BlobPath(file->blob), offset, length);
  };
}

RangeReader FolderReader(std::string folder) {
  return [folder = std::move(folder)](const std::string& path, int64_t offset, int64_t length) {
    return ReadRangeOfFile(folder + "/" + path, offset, length);
  };
}

absl::StatusOr<Inspection> InspectFiles(Engines& engines, const PreflightRequest& request,
                                        const RangeReader& read, std::stop_token stop) {
  const RepoFile* config = Find(request.files, kConfigFile);
  if (config == nullptr) {
    Inspection none;
    none.reason = std::string(ReasonName(Reason::kUnsupportedArchitecture));
    none.message = "the repository has no config.json";
    return none;
  }
  json input = {{"trust_remote_code", request.trust_remote_code}, {"files", json::array()}};
  for (const RepoFile& file : request.files) {
    input["files"].push_back({{"path", file.path}, {"size_bytes", file.size_bytes}});
  }
  ASSIGN_OR_RETURN(input["config"], ReadSmallFile(read, *config));
  const RepoFile* index = Find(request.files, kIndexFile);
  if (index != nullptr && Find(request.files, kSingleWeightFile) == nullptr) {
    ASSIGN_OR_RETURN(input["index"], ReadSmallFile(read, *index));
  }
  ASSIGN_OR_RETURN(input["texts"], ReadModuleTexts(read, request.files));
  // The first answer says which files hold the weights.
  ASSIGN_OR_RETURN(Inspection inspection, engines.Inspect(Dump(input), stop));
  if (!request.headers || !inspection.supported || inspection.weight_files.empty()) {
    return inspection;
  }
  ASSIGN_OR_RETURN(input["headers"], ReadHeads(read, request.files, inspection.weight_files));
  return engines.Inspect(Dump(input), stop);
}

}  // namespace modeld
