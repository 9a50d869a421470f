// GLM-4 (dense, 0414): four norms a layer, half of a head turned in neighbouring pairs.
// GLM-4.5 and 4.6 (glm4_moe): two norms, halves, a mixture of experts after the first layers.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadGlm4(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader,
              {.num_kv_heads = 2,
               .head_dim = 128,
               .max_context = 131072,
               .norm_eps = 1.5625e-7,
               .partial_rotary_factor = 0.5},
              config);
  config.norm_placement = NormPlacement::kAround;
  config.fused_gate_up = true;
  config.rope_interleaved = true;
  config.qkv_bias = reader.BoolOr("attention_bias", true);
}

void ReadGlm4Moe(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(
      reader,
      {.num_kv_heads = 8, .max_context = 131072, .norm_eps = 1e-5, .partial_rotary_factor = 0.5},
      config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  if (reader.BoolOr("use_qk_norm", false)) config.qk_norm = QkNorm::kHead;
  ReadSigmoidExperts(reader, config);
}

constexpr Rename kGlm4Names[] = {{"attention_norm", "input_layernorm"},
                                 {"attention_after_norm", "post_self_attn_layernorm"},
                                 {"mlp_norm", "post_attention_layernorm"},
                                 {"mlp_after_norm", "post_mlp_layernorm"}};

}  // namespace

const Architecture kGlm4 = {"glm4", "Glm4ForCausalLM", ReadGlm4, kGlm4Names};
const Architecture kGlm4Moe = {"glm4_moe", "Glm4MoeForCausalLM", ReadGlm4Moe, kSharedExpertsNames};

}  // namespace modeld
