// Qwen3 (dense): no bias by default, a norm on each head's query and key, a head size of its own.
// The text part of Qwen3-VL is the same: its three positions are one where there is only text.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.head_dim = 128, .max_context = 32768}, config);
  ReadQwenWindows(reader, config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = QkNorm::kHead;
}

}  // namespace

const Architecture kQwen3 = {"qwen3", "Qwen3ForCausalLM", Read, kLlamaNames};
const Architecture kQwen3VlText = {"qwen3_vl_text", "Qwen3VLTextModel", Read, kLlamaNames};

}  // namespace modeld
