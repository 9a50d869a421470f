#include "tests/engine/weights/repository.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "server/engine/weights/architecture.h"

namespace modeld {

TemporaryRepository::TemporaryRepository() {
  std::string name = testing::TempDir() + "modeld_repository_XXXXXX";
  if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "cannot make " << name;
  path_ = name;
}

TemporaryRepository::~TemporaryRepository() {
  std::error_code ignored;  // what is left lies in the folder for temporary files
  std::filesystem::remove_all(path_, ignored);
}

void TemporaryRepository::Write(const std::string& name, std::string_view content) const {
  std::ofstream(path_ + "/" + name, std::ios::binary) << content;
}

std::string SafetensorsBytes(std::string_view header_json, int64_t data_bytes) {
  std::string file;
  for (int i = 0; i < 8; ++i) file += static_cast<char>((header_json.size() >> (8 * i)) & 0xff);
  file += header_json;
  file.append(static_cast<size_t>(data_bytes), '\0');
  return file;
}

std::string LlamaConfig(const std::string& key, const std::string& value) {
  nlohmann::json config = {{"model_type", "llama"},      {"architectures", {"LlamaForCausalLM"}},
                           {"hidden_size", 32},          {"intermediate_size", 64},
                           {"num_hidden_layers", 2},     {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},   {"vocab_size", 100},
                           {"rms_norm_eps", 1e-5},       {"max_position_embeddings", 512},
                           {"tie_word_embeddings", true}};
  if (value == "absent") {
    config.erase(key);
  } else if (!key.empty()) {
    config.erase(key);
    std::string text = config.dump();
    // Values that are no JSON must reach the reader as they are.
    return text.substr(0, text.size() - 1) + ",\"" + key + "\":" + value + "}";
  }
  return config.dump();
}

std::string WeightsFor(const ArchitectureConfig& config, const std::string& without) {
  nlohmann::json header = nlohmann::json::object();
  int64_t position = 0;
  for (const TensorShape& tensor : TensorsOf(config)) {
    if (tensor.name == without) continue;
    const int64_t end = position + 2 * tensor.elements();
    header[tensor.name] = {
        {"dtype", "BF16"}, {"shape", tensor.shape}, {"data_offsets", {position, end}}};
    position = end;
  }
  return SafetensorsBytes(header.dump(), position);
}

std::string Fp8WeightsFor(const ArchitectureConfig& config, const Fp8ScaleOfTest& scale) {
  // The first zero of the data ends the header's text.
  const nlohmann::json plain = nlohmann::json::parse(WeightsFor(config).substr(8).c_str());
  nlohmann::json header = nlohmann::json::object();
  int64_t position = 0;
  const auto add = [&](const std::string& name, const std::string& dtype,
                       const std::vector<int64_t>& shape, int64_t element_bytes) {
    int64_t end = element_bytes;
    for (const int64_t length : shape) end *= length;
    end += position;
    header[name] = {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {position, end}}};
    position = end;
  };
  for (const auto& [name, tensor] : plain.items()) {
    const bool is_fp8 = name.ends_with("q_proj.weight");
    add(name, is_fp8 ? "F8_E4M3" : "BF16", tensor.at("shape"), is_fp8 ? 1 : 2);
    if (is_fp8 && !scale.dtype.empty()) add(name + "_scale_inv", scale.dtype, scale.shape, 4);
  }
  return SafetensorsBytes(header.dump(), position);
}

}  // namespace modeld
