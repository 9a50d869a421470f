#include "server/engine/weights/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {
namespace {

constexpr char kFile[] = "config.json";
constexpr char kFp8Method[] = "fp8";
constexpr Range<int64_t> kTokenIds{0, INT32_MAX};
constexpr Range<int64_t> kBlockSizes{1, 1 << 20};

// "modeling_x.py" of "owner/repo--modeling_x.ClassName".
std::string PythonFile(std::string name) {
  if (const size_t at = name.find("--"); at != std::string::npos) name = name.substr(at + 2);
  return name.substr(0, name.rfind('.')) + ".py";
}

std::string RemoteCodeFile(const nlohmann::json& auto_map) {
  if (!auto_map.is_object()) return "";
  std::string file;
  for (const auto& [auto_class, name] : auto_map.items()) {
    if (!name.is_string()) continue;
    // The model's file says most; the configuration's is better than nothing.
    if (auto_class.starts_with("AutoModel")) return PythonFile(name.get<std::string>());
    file = PythonFile(name.get<std::string>());
  }
  return file;
}

absl::StatusOr<ConfigHeader> HeaderOf(const nlohmann::json& config) {
  ConfigReader reader(config, kFile);
  ConfigHeader header;
  header.model_type = reader.StringOr("model_type", "");
  if (const auto classes = config.find("architectures"); classes != config.end() &&
                                                         classes->is_array() && !classes->empty() &&
                                                         classes->front().is_string()) {
    header.architecture = classes->front().get<std::string>();
  }
  if (reader.Has("auto_map")) {
    header.has_remote_code = true;
    header.remote_code_file = RemoteCodeFile(config.at("auto_map"));
  }
  if (reader.Has("quantization_config")) {
    ConfigReader quantization(reader.ObjectAt("quantization_config"), "quantization_config");
    header.quantization_method = quantization.StringOr("quant_method", "of an unnamed method");
    reader.Fail(quantization.status());
  }
  RETURN_IF_ERROR(reader.status());
  if (header.model_type.empty() && !header.has_remote_code) {
    return Error(Reason::kInvalidRepository, "config.json: model_type is missing");
  }
  return header;
}

// Whether `name` is the class of a decoder without its head: "MistralModel", "Gemma3TextModel".
bool IsBaseClass(const Architecture& architecture, std::string_view name) {
  constexpr std::string_view kEnding = "ForCausalLM";
  std::string_view stem = architecture.class_name;
  if (!stem.ends_with(kEnding) || !name.starts_with(stem.substr(0, stem.size() - kEnding.size()))) {
    return false;
  }
  stem.remove_suffix(kEnding.size());
  name.remove_prefix(stem.size());
  return name == "Model" || name == "TextModel";
}

bool IsOtherClass(const Architecture& architecture, std::string_view name) {
  return std::ranges::find(architecture.other_classes, name) != architecture.other_classes.end();
}

Fp8Config ReadFp8(ConfigReader& reader) {
  ConfigReader quantization(reader.ObjectAt("quantization_config"), "quantization_config");
  const std::vector<int64_t> block = quantization.IntsOf("weight_block_size", kBlockSizes);
  if (!block.empty() && block.size() != 2) {
    quantization.Refuse("weight_block_size", absl::StrCat("of ", block.size(), " numbers"),
                        "must have two");
  }
  reader.Fail(quantization.status());
  if (block.size() != 2) return {};
  return {.block_rows = block[0], .block_columns = block[1]};
}

}  // namespace

absl::StatusOr<ConfigHeader> ReadConfigHeader(std::string_view config_json) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(config_json, kFile));
  return HeaderOf(json);
}

absl::StatusOr<ArchitectureConfig> ReadArchitectureConfig(std::string_view config_json) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(config_json, kFile));
  ASSIGN_OR_RETURN(const ConfigHeader header, HeaderOf(json));
  ConfigReader outer(json, kFile);
  const Wrapper* wrapper = FindWrapper(header.model_type);
  // Of a repository with images only the text part is looked at.
  const nlohmann::json& object = wrapper == nullptr ? json : outer.ObjectAt("text_config");
  ConfigReader reader(object, wrapper == nullptr ? kFile : "config.json: text_config");
  const std::string model_type = wrapper == nullptr
                                     ? header.model_type
                                     : reader.StringOr("model_type", wrapper->text_model_type);
  RETURN_IF_ERROR(outer.status());
  const Architecture* architecture = FindArchitecture(model_type);
  if (architecture == nullptr) {
    return Error(Reason::kUnsupportedArchitecture,
                 absl::StrFormat("model type \"%s\" is not supported", model_type));
  }
  const std::string_view class_name =
      wrapper == nullptr ? architecture->class_name : wrapper->class_name;
  const bool is_base = wrapper == nullptr && IsBaseClass(*architecture, header.architecture);
  if (!header.architecture.empty() && header.architecture != class_name && !is_base &&
      !IsOtherClass(*architecture, header.architecture)) {
    return Error(Reason::kUnsupportedArchitecture,
                 absl::StrFormat("architecture %s is not supported (%s is)", header.architecture,
                                 std::string(class_name)));
  }
  const std::string& method = header.quantization_method;
  if (!method.empty() && method != kFp8Method && method != architecture->quantization) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("config.json: weights quantized by %s are not supported", method));
  }
  ArchitectureConfig config;
  config.model_type = model_type;
  config.architecture = header.architecture;
  if (wrapper != nullptr) config.wrapper = header.model_type;
  architecture->read(reader, config);
  if (!reader.Has("tie_word_embeddings")) {
    config.tie_word_embeddings = outer.BoolOr("tie_word_embeddings", config.tie_word_embeddings);
  }
  if (method == kFp8Method) config.fp8 = ReadFp8(outer);
  config.eos_token_ids =
      (outer.Has("eos_token_id") ? outer : reader).IntsOf("eos_token_id", kTokenIds);
  RETURN_IF_ERROR(outer.status());
  RETURN_IF_ERROR(reader.status());
  if (is_base || config.both_ways) RETURN_IF_ERROR(UseForVectors(config));
  return config;
}

absl::Status UseForVectors(ArchitectureConfig& config) {
  const bool depends = std::ranges::any_of(config.layers, [](const LayerConfig& layer) {
    return layer.mixer != Mixer::kAttention || layer.kv_layer >= 0;
  });
  const bool keeps = depends || config.layer_input_size > 0 || config.latent.kv_rank > 0 ||
                     config.attention_sinks || config.query_scale_beta != 0;
  if (keeps) {
    return Error(Reason::kUnsupportedArchitecture,
                 absl::StrFormat("model type \"%s\" can generate text, but making vectors with its "
                                 "kinds of layers is not supported",
                                 config.model_type));
  }
  config.makes_vectors = true;
  return absl::OkStatus();
}

}  // namespace modeld
