#include "server/engine/weights/sentence_config.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {
namespace {

using nlohmann::json;

constexpr int64_t kFileBytesMax = 16 << 20;
constexpr int64_t kModulesMax = 64;
constexpr Range<int64_t> kFeatures{1, 1 << 20};
constexpr Range<int64_t> kTokens{1, 1 << 28};

// The keys of old files, in the order in which their vectors follow each other, and the names of
// new ones.
struct PoolingName {
  std::string_view key;
  std::string_view name;
  Pooling pooling;
};
constexpr auto kPoolings = std::to_array<PoolingName>({
    {"pooling_mode_cls_token", "cls", Pooling::kFirst},
    {"pooling_mode_max_tokens", "max", Pooling::kMax},
    {"pooling_mode_mean_tokens", "mean", Pooling::kMean},
    {"pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pooling::kMeanSquareRoot},
    {"pooling_mode_weightedmean_tokens", "weightedmean", Pooling::kWeightedMean},
    {"pooling_mode_lasttoken", "lasttoken", Pooling::kLast},
});

constexpr auto kActivations = std::to_array<std::pair<std::string_view, DenseActivation>>({
    {"Identity", DenseActivation::kNone},
    {"Tanh", DenseActivation::kTanh},
    {"ReLU", DenseActivation::kRelu},
    {"GELU", DenseActivation::kGelu},
    {"Sigmoid", DenseActivation::kSigmoid},
    {"SiLU", DenseActivation::kSilu},
});

// The names that the first module's own settings go by.
constexpr auto kTransformerFiles = std::to_array<std::string_view>(
    {"sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json",
     "sentence_camembert_config.json", "sentence_albert_config.json",
     "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json"});

// "Tanh" of "torch.nn.modules.activation.Tanh".
std::string LastPart(const std::string& name) { return name.substr(name.rfind('.') + 1); }

absl::Status Unsupported(std::string_view what) {
  return Error(Reason::kUnsupportedArchitecture,
               absl::StrCat(std::string(what), " is not supported for making vectors"));
}

// Empty when the file is not there.
absl::StatusOr<json> ReadObject(const SmallFiles& files, const std::string& path) {
  ASSIGN_OR_RETURN(const std::optional<std::string> text, files(path));
  if (!text) return json::object();
  return ParseJsonObject(*text, path);
}

// One entry of modules.json.
struct Entry {
  std::string type;  // "Pooling"
  std::string folder;
};

bool IsPlainFolder(std::string_view path) {
  if (path.size() > 255 || path.find('\0') != std::string_view::npos) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if ((part.empty() && !path.empty()) || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

absl::StatusOr<std::vector<Entry>> ReadModules(std::string_view text) {
  // The file is a list; ParseJsonObject watches depth and size of objects.
  ASSIGN_OR_RETURN(
      const json wrapped,
      ParseJsonObject(absl::StrCat("{\"modules\":", std::string(text), "}"), kModulesFile));
  const json& list = wrapped.at("modules");
  if (wrapped.size() != 1 || !list.is_array() || list.empty() || std::ssize(list) > kModulesMax) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s is no list of 1 to %d modules", kModulesFile, kModulesMax));
  }
  std::vector<Entry> entries;
  for (const json& item : list) {
    if (!item.is_object()) {
      return Error(Reason::kInvalidRepository,
                   absl::StrCat(kModulesFile, ": an entry is no object"));
    }
    ConfigReader reader(item, kModulesFile);
    Entry entry = {.type = LastPart(reader.StringOr("type", "")),
                   .folder = reader.StringOr("path", "")};
    if (!IsPlainFolder(entry.folder)) {
      reader.Refuse("path", entry.folder, "must be a folder of the repository");
    }
    RETURN_IF_ERROR(reader.status());
    entries.push_back(std::move(entry));
  }
  return entries;
}

absl::Status ReadPooling(const json& object, const std::string& where, int64_t hidden_size,
                         SentenceConfig& config) {
  ConfigReader reader(object, where);
  std::vector<std::string> names;
  if (reader.Has("pooling_mode") && object.at("pooling_mode").is_string()) {
    names = {reader.StringOr("pooling_mode", "")};
  } else {
    names = reader.StringsOf("pooling_mode");
  }
  config.poolings.clear();
  for (const std::string& name : names) {
    const auto known = std::ranges::find(kPoolings, name, &PoolingName::name);
    if (known == kPoolings.end()) {
      reader.Fail(Unsupported(absl::StrFormat("%s: pooling_mode \"%s\"", where, name)));
    } else {
      config.poolings.push_back(known->pooling);
    }
  }
  if (names.empty()) {
    for (const PoolingName& pooling : kPoolings) {
      if (reader.BoolOr(pooling.key, false)) config.poolings.push_back(pooling.pooling);
    }
    if (config.poolings.empty()) config.poolings = {Pooling::kMean};
  }
  config.pools_prompt = reader.BoolOr("include_prompt", true);
  const char* size_key =
      reader.Has("embedding_dimension") ? "embedding_dimension" : "word_embedding_dimension";
  const int64_t size = reader.Int(size_key, kFeatures);
  if (size != hidden_size) {
    reader.Refuse(size_key, absl::StrCat(size),
                  absl::StrFormat("the model's vectors have %d numbers", hidden_size));
  }
  config.dimensions = std::ssize(config.poolings) * hidden_size;
  return reader.status();
}

absl::Status ReadDense(const json& object, const std::string& where, SentenceConfig& config,
                       SentenceModule& module) {
  ConfigReader reader(object, where);
  module.in_features = reader.Int("in_features", kFeatures);
  module.out_features = reader.Int("out_features", kFeatures);
  module.bias = reader.BoolOr("bias", true);
  const std::string activation =
      LastPart(reader.StringOr("activation_function", "torch.nn.modules.activation.Tanh"));
  const auto known = std::ranges::find(kActivations, activation,
                                       &std::pair<std::string_view, DenseActivation>::first);
  if (known == kActivations.end()) {
    reader.Fail(Unsupported(absl::StrFormat("%s: activation_function \"%s\"", where, activation)));
  } else {
    module.activation = known->second;
  }
  if (reader.BoolOr("use_residual", false) ||
      reader.StringOr("module_input_name", "sentence_embedding") != "sentence_embedding") {
    reader.Fail(
        Unsupported(absl::StrCat(where, ": a layer that is not just before or after others")));
  }
  RETURN_IF_ERROR(reader.status());
  if (module.in_features != config.dimensions) {
    reader.Refuse("in_features", absl::StrCat(module.in_features),
                  absl::StrFormat("what comes in has %d numbers", config.dimensions));
  }
  config.dimensions = module.out_features;
  return reader.status();
}

// The modules behind the first one, which is the model.
absl::Status AddModule(const SmallFiles& files, const Entry& entry, int64_t hidden_size, bool first,
                       SentenceConfig& config) {
  const std::string where = absl::StrCat(entry.folder, "/config.json");
  if ((entry.type == "Pooling") != first) {
    return Unsupported(absl::StrFormat("%s: module \"%s\" in its place", kModulesFile, entry.type));
  }
  if (first) {
    ASSIGN_OR_RETURN(const json object, ReadObject(files, where));
    return ReadPooling(object, where, hidden_size, config);
  }
  SentenceModule module = {.folder = entry.folder, .out_features = config.dimensions};
  if (entry.type == "Dense") {
    ASSIGN_OR_RETURN(const json object, ReadObject(files, where));
    RETURN_IF_ERROR(ReadDense(object, where, config, module));
  } else if (entry.type == "LayerNorm") {
    module.kind = SentenceModule::Kind::kLayerNorm;
  } else if (entry.type == "Normalize") {
    module.kind = SentenceModule::Kind::kNormalize;
  } else if (entry.type == "Dropout") {
    return absl::OkStatus();  // acts in training only
  } else {
    return Unsupported(absl::StrFormat("%s: module \"%s\"", kModulesFile, entry.type));
  }
  config.modules.push_back(std::move(module));
  return absl::OkStatus();
}

absl::Status ReadPrompts(const SmallFiles& files, SentenceConfig& config) {
  constexpr char kFile[] = "config_sentence_transformers.json";
  ASSIGN_OR_RETURN(const json object, ReadObject(files, kFile));
  ConfigReader reader(object, kFile);
  config.default_prompt = reader.StringOr("default_prompt_name", "");
  if (reader.Has("prompts")) {
    const json& prompts = reader.ObjectAt("prompts");
    ConfigReader named(prompts, absl::StrCat(kFile, ": prompts"));
    for (const auto& [name, text] : prompts.items()) {
      config.prompts.emplace(name, named.StringOr(name, ""));
    }
    reader.Fail(named.status());
  }
  if (!config.default_prompt.empty() && !config.prompts.contains(config.default_prompt)) {
    reader.Refuse("default_prompt_name", config.default_prompt, "is none of the prompts");
  }
  return reader.status();
}

// sentence_bert_config.json; where that is silent, what the tokenizer says.
absl::Status ReadMaxTokens(const SmallFiles& files, SentenceConfig& config) {
  for (const std::string_view name : kTransformerFiles) {
    ASSIGN_OR_RETURN(const json object, ReadObject(files, std::string(name)));
    ConfigReader reader(object, std::string(name));
    config.max_tokens = reader.IntOr("max_seq_length", kTokens, config.max_tokens);
    if (reader.BoolOr("do_lower_case", false)) {
      reader.Fail(Unsupported(absl::StrCat(std::string(name), ": do_lower_case")));
    }
    RETURN_IF_ERROR(reader.status());
    if (!object.empty()) break;
  }
  if (config.max_tokens > 0) return absl::OkStatus();
  constexpr char kTokenizerFile[] = "tokenizer_config.json";
  ASSIGN_OR_RETURN(const json object, ReadObject(files, kTokenizerFile));
  const auto length = object.find("model_max_length");
  // "None" is spelled as a number that is larger than any length.
  if (length == object.end() || !length->is_number()) return absl::OkStatus();
  const auto tokens = length->get<double>();
  if (tokens >= 1 && tokens <= static_cast<double>(kTokens.max)) {
    config.max_tokens = static_cast<int64_t>(tokens);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentenceConfig> ReadSentenceConfig(const SmallFiles& files,
                                                  const ArchitectureConfig& config) {
  SentenceConfig sentence;
  sentence.dimensions = config.hidden_size;
  RETURN_IF_ERROR(ReadMaxTokens(files, sentence));
  ASSIGN_OR_RETURN(const std::optional<std::string> modules, files(kModulesFile));
  if (!modules) return sentence;
  ASSIGN_OR_RETURN(const std::vector<Entry> entries, ReadModules(*modules));
  if (entries.front().type != "Transformer" || !entries.front().folder.empty()) {
    return Unsupported(absl::StrFormat("%s: module \"%s\" in \"%s\" as the first one", kModulesFile,
                                       entries.front().type, entries.front().folder));
  }
  if (entries.size() < 2) {
    return Unsupported(absl::StrCat(kModulesFile, " without a pooling module"));
  }
  for (size_t i = 1; i < entries.size(); ++i) {
    RETURN_IF_ERROR(AddModule(files, entries[i], config.hidden_size, i == 1, sentence));
  }
  if (!sentence.modules.empty() &&
      sentence.modules.back().kind == SentenceModule::Kind::kNormalize) {
    sentence.modules.pop_back();
    sentence.normalize = true;
  }
  RETURN_IF_ERROR(ReadPrompts(files, sentence));
  return sentence;
}

SmallFiles FilesBelow(const std::string& snapshot_path) {
  return [snapshot_path](const std::string& path) -> absl::StatusOr<std::optional<std::string>> {
    const std::string full = absl::StrCat(snapshot_path, "/", path);
    std::error_code ignored;  // a file that cannot be looked at is reported by the read below
    if (!std::filesystem::exists(full, ignored)) return std::nullopt;
    ASSIGN_OR_RETURN(std::string text, ReadFile(full, kFileBytesMax));
    return text;
  };
}

}  // namespace modeld
