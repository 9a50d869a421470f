// Mixtral: Mistral with a mixture of experts in every layer.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 8, .max_context = 131072, .norm_eps = 1e-5, .theta = 1e6},
              config);
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 0), config);
  ReadExperts(reader, "num_local_experts", {.num_experts = 8, .experts_per_token = 2}, config);
  config.moe.intermediate_size = config.intermediate_size;
  config.moe.normalize = true;
  for (LayerConfig& layer : config.layers) layer.moe = true;
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"},
                             {"mlp_norm", "post_attention_layernorm"},
                             {"mlp.router", "block_sparse_moe.gate"},
                             {"mlp.experts", "block_sparse_moe.experts"},
                             {"gate_proj", "w1"},
                             {"down_proj", "w2"},
                             {"up_proj", "w3"}};

}  // namespace

const Architecture kMixtral = {"mixtral", "MixtralForCausalLM", Read, kNames};

}  // namespace modeld
