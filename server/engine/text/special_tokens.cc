#include "server/engine/text/special_tokens.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// The largest known tokenizer_config.json, with some 200,000 added tokens, has 30 MB.
constexpr int64_t kConfigBytesMax = 64 << 20;

// The tokenizer.json of the largest vocabulary has 2.5 million of these marks. A value of two
// bytes, parsed, may take 100: few bytes of file could take all memory.
constexpr int64_t kJsonMarksMax = 8 << 20;

absl::Status CheckJsonSize(const std::string& json, const std::string& name) {
  const int64_t marks = std::ranges::count_if(
      json, [](char c) { return c == ',' || c == ':' || c == '[' || c == '{'; });
  if (marks <= kJsonMarksMax) return absl::OkStatus();
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("%s has %d commas, colons and brackets, of at most %d", name, marks,
                               kJsonMarksMax));
}

bool IsTokenName(const std::string& name) {
  constexpr std::string_view kSuffix = "_token";
  return name.ends_with(kSuffix) && name.size() > kSuffix.size();
}

absl::Status AddSpecialTokens(const nlohmann::json& config, const std::string& file,
                              std::map<std::string, std::string>& tokens) {
  for (const auto& [name, value] : config.items()) {
    // Switches such as "add_bos_token" have the same ending.
    if (!IsTokenName(name) || value.is_boolean() || value.is_null()) continue;
    if (value.is_string()) {
      tokens.emplace(name, value.get<std::string>());
      continue;
    }
    const auto content = value.is_object() ? value.find("content") : value.end();
    if (!value.is_object() || content == value.end() || !content->is_string()) {
      return Error(
          Reason::kInvalidRepository,
          absl::StrFormat("%s: %s is neither a string nor an object with a content", file, name));
    }
    tokens.emplace(name, content->get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadSnapshotFile(const std::string& snapshot_path,
                                             const std::string& name, int64_t bytes_max) {
  absl::StatusOr<std::string> text = ReadFile(snapshot_path + "/" + name, bytes_max);
  if (text.ok()) {
    if (name.ends_with(".json")) RETURN_IF_ERROR(CheckJsonSize(*text, name));
    return text;
  }
  if (absl::IsNotFound(text.status())) return std::string();
  if (absl::IsResourceExhausted(text.status())) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s is longer than %d bytes", name, bytes_max));
  }
  return text.status();
}

absl::StatusOr<nlohmann::json> ReadSnapshotObject(const std::string& snapshot_path,
                                                  const std::string& name) {
  ASSIGN_OR_RETURN(const std::string text, ReadSnapshotFile(snapshot_path, name, kConfigBytesMax));
  if (text.empty()) return nlohmann::json::object();
  nlohmann::json object = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return Error(Reason::kInvalidRepository, name + " is not a JSON object");
  }
  return object;
}

absl::StatusOr<std::map<std::string, std::string>> ReadSpecialTokens(
    const std::string& snapshot_path) {
  std::map<std::string, std::string> tokens;
  for (const std::string file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    ASSIGN_OR_RETURN(const nlohmann::json config, ReadSnapshotObject(snapshot_path, file));
    RETURN_IF_ERROR(AddSpecialTokens(config, file, tokens));
  }
  return tokens;
}

}  // namespace modeld
