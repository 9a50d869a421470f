#include "tests/support/fake_engine/inspect.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>

#include "server/core/inspection.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

void Misbehave(const std::string& how) {
  if (how == "crash") {
    std::fprintf(stderr, "fake inspect: told to crash\n");
    std::abort();
  }
  while (how == "hang") pause();
  const std::string block(1 << 20, 'x');
  while (how == "flood" && std::fwrite(block.data(), 1, block.size(), stdout) == block.size()) {
  }
  if (how == "garbage") std::printf("no JSON at all\n");
}

void FillSizes(const Json& request, const Json& config, Inspection& inspection) {
  for (const Json& file : request.value("files", Json::array())) {
    const std::string path = file.value("path", "");
    if (!path.ends_with(".safetensors") && !path.ends_with(".bin")) continue;
    inspection.weights_file_bytes += file.value("size_bytes", int64_t{0});
    inspection.weight_files.push_back(path);
  }
  inspection.num_layers = config.value("num_hidden_layers", int64_t{2});
  inspection.hidden_size = config.value("hidden_size", int64_t{64});
  inspection.vocab_size = config.value("vocab_size", int64_t{1000});
  inspection.max_context = config.value("max_position_embeddings", int64_t{2048});
  inspection.parameters = inspection.weights_file_bytes / 2;
  inspection.pass_bytes = 1;  // so that sums are easy
  const int64_t heads = config.value("num_attention_heads", int64_t{4});
  const int64_t kv_width =
      inspection.hidden_size / heads * config.value("num_key_value_heads", heads);
  for (const auto& [dtype, bytes] : {std::pair{"bfloat16", 2}, {"float16", 2}, {"float32", 4}}) {
    inspection.weights_bytes[dtype] = inspection.parameters * bytes;
    inspection.layer_bytes[dtype].assign(
        inspection.num_layers,
        inspection.num_layers > 0 ? inspection.weights_bytes[dtype] / inspection.num_layers : 0);
    inspection.kv_bytes_per_token[dtype] = 2 * inspection.num_layers * kv_width * bytes;
  }
}

void Judge(const Json& request, Inspection& inspection) {
  const std::string& type = inspection.model_type;
  inspection.supported = type == "llama" || type == "qwen2" || type == "qwen3";
  if (inspection.supported) return;
  const bool untrusted = inspection.has_remote_code && !request.value("trust_remote_code", false);
  inspection.reason = untrusted ? "REMOTE_CODE_NOT_TRUSTED" : "UNSUPPORTED_ARCHITECTURE";
  inspection.message = "model_type \"" + type + "\" is not supported";
}

}  // namespace

int FakeInspect() {
  const std::string input{std::istreambuf_iterator<char>(std::cin), {}};
  const Json request = Json::parse(input, nullptr, false);
  if (!request.is_object()) {
    std::fprintf(stderr, "fake inspect: stdin is no JSON object\n");
    return 1;
  }
  Inspection inspection;
  const Json config = Json::parse(request.value("config", ""), nullptr, false);
  if (!config.is_object()) {
    inspection.reason = "INVALID_REPOSITORY";
    inspection.message = "config.json is no JSON object";
    std::printf("%s\n", InspectionToJson(inspection).c_str());
    return 0;
  }
  const std::string how = config.value("fake_inspect", "");
  if (!how.empty()) {
    Misbehave(how);
    return 0;
  }
  inspection.model_type = config.value("model_type", "");
  const Json architectures = config.value("architectures", Json::array());
  if (!architectures.empty()) inspection.architecture = architectures[0].get<std::string>();
  inspection.has_remote_code = config.contains("auto_map");
  FillSizes(request, config, inspection);
  Judge(request, inspection);
  Json answer = Json::parse(InspectionToJson(inspection));
  answer.update(config.value("fake_inspection", Json::object()));
  std::printf("%s\n", answer.dump().c_str());
  return 0;
}

}  // namespace modeld
