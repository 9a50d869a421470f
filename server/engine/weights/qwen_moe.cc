// Qwen1.5-MoE and Qwen2-57B-A14B (qwen2_moe): experts and one that sees every token, by a gate.
// Qwen3-30B-A3B and the like (qwen3_moe): experts only, norms of queries and keys.
#include <algorithm>

#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadQwen2Moe(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 16, .max_context = 32768}, config);
  config.qkv_bias = reader.BoolOr("qkv_bias", true);
  ReadQwenExperts(reader, {.num_experts = 60, .experts_per_token = 4}, config);
  config.moe.shared_intermediate_size =
      reader.IntOr("shared_expert_intermediate_size", kIntermediateRange, 5632);
  config.moe.shared_gate = true;
  if (!reader.BoolOr("use_sliding_window", false)) return;
  const int64_t window = reader.IntOr("sliding_window", kContextRange, 4096);
  const int64_t windows_below = reader.IntOr("max_window_layers", {0, 1 << 12}, 28);
  ReadWindows(reader, window, 1, config);
  if (reader.Has("layer_types")) return;
  for (int64_t layer = 0; layer < std::min(windows_below, config.num_layers); layer += 2) {
    config.layers[layer].window = window;
  }
}

void ReadQwen3Moe(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 4, .max_context = 32768}, config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = QkNorm::kHead;
  ReadQwenExperts(reader, {.num_experts = 128, .experts_per_token = 8}, config);
  if (!reader.BoolOr("use_sliding_window", false)) return;
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 4096), config);
}

}  // namespace

const Architecture kQwen2Moe = {"qwen2_moe", "Qwen2MoeForCausalLM", ReadQwen2Moe, kQwenMoeNames};
const Architecture kQwen3Moe = {"qwen3_moe", "Qwen3MoeForCausalLM", ReadQwen3Moe, kQwenMoeNames};

}  // namespace modeld
