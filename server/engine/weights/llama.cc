// Llama 1 to 3.x and everything published under its model type.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {}, config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = reader.BoolOr("mlp_bias", false);
}

}  // namespace

const Architecture kLlama = {"llama", "LlamaForCausalLM", Read, kLlamaNames};

}  // namespace modeld
