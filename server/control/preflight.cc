#include "server/control/preflight.h"

#include <fcntl.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/core/bytes.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using nlohmann::json;

constexpr char kConfigFile[] = "config.json";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr char kSingleWeightFile[] = "model.safetensors";
constexpr char kTorchIndexFile[] = "pytorch_model.bin.index.json";
constexpr char kSingleTorchFile[] = "pytorch_model.bin";
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
// Heads that are asked for at once; large models have some hundred files.
constexpr size_t kHeadThreads = 8;

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

// The heads of some files, read by a few threads. One call.
class HeadReader {
 public:
  HeadReader(const RangeReader& read, std::vector<const RepoFile*> files)
      : read_(read), files_(std::move(files)) {}

  absl::StatusOr<json> Read() {
    {
      std::vector<std::jthread> threads;
      for (size_t i = 0; i < std::min(kHeadThreads, files_.size()); ++i) {
        threads.emplace_back([this] { ReadSome(); });
      }
    }
    MutexLock lock(mutex_);
    RETURN_IF_ERROR(problem_);
    return std::move(heads_);
  }

 private:
  void ReadSome() {
    while (const RepoFile* file = Next()) {
      const absl::StatusOr<std::string> head = ReadHead(read_, *file);
      MutexLock lock(mutex_);
      if (!head.ok()) {
        problem_.Update(head.status());
        continue;
      }
      bytes_ += std::ssize(*head);
      if (bytes_ > kHeadersBytesMax) {
        problem_.Update(Error(
            Reason::kInvalidRepository,
            "the headers of the weight files have more than " + FormatBytes(kHeadersBytesMax)));
        continue;
      }
      heads_[file->path] = absl::Base64Escape(*head);
    }
  }

  // Null when all are read or one could not be.
  const RepoFile* Next() {
    MutexLock lock(mutex_);
    return problem_.ok() && next_ < files_.size() ? files_[next_++] : nullptr;
  }

  const RangeReader& read_;
  const std::vector<const RepoFile*> files_;
  Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status problem_ ABSL_GUARDED_BY(mutex_);
  json heads_ ABSL_GUARDED_BY(mutex_) = json::object();
};

// Of those weight files that have one.
absl::StatusOr<json> ReadHeads(const RangeReader& read, const std::vector<RepoFile>& files,
                               const std::vector<std::string>& weight_files) {
  std::vector<const RepoFile*> with_head;
  for (const std::string& path : weight_files) {
    const RepoFile* file = Find(files, path);
    if (file != nullptr && path.ends_with(".safetensors")) with_head.push_back(file);
  }
  return HeadReader(read, std::move(with_head)).Read();
}

// The text of `index`, where it says what is in the shards: nothing beside a single file.
absl::StatusOr<json> ReadIndex(const RangeReader& read, const std::vector<RepoFile>& files,
                               const char* index, const char* single) {
  const RepoFile* file = Find(files, index);
  if (file == nullptr || Find(files, single) != nullptr) return json();
  return ReadSmallFile(read, *file);
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
  ASSIGN_OR_RETURN(input["index"], ReadIndex(read, request.files, kIndexFile, kSingleWeightFile));
  if (input["index"].is_null() && Find(request.files, kSingleWeightFile) == nullptr) {
    ASSIGN_OR_RETURN(input["torch_index"],
                     ReadIndex(read, request.files, kTorchIndexFile, kSingleTorchFile));
  }
  ASSIGN_OR_RETURN(input["texts"], ReadModuleTexts(read, request.files));
  // The first answer says which files hold the weights.
  ASSIGN_OR_RETURN(Inspection inspection, engines.Inspect(Dump(input), stop));
  if (request.heads == Heads::kNo || !inspection.supported || inspection.weight_files.empty()) {
    return inspection;
  }
  absl::StatusOr<json> heads = ReadHeads(read, request.files, inspection.weight_files);
  if (!heads.ok() && request.heads == Heads::kIfTheyCome) {
    LogInfo("headers_not_had", {{"error", heads.status()}});
    return inspection;
  }
  ASSIGN_OR_RETURN(input["headers"], std::move(heads));
  return engines.Inspect(Dump(input), stop);
}

}  // namespace modeld
