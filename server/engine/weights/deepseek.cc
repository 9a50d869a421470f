// DeepSeek V2 and V3: attention over a small cached vector, a mixture of experts with shared ones.
#include <cmath>
#include <string>

#include "server/core/reason.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

constexpr Range<int64_t> kRank{1, 1 << 14};
constexpr Range<int64_t> kPart{2, 1 << 12};

void ReadLatent(ConfigReader& reader, ArchitectureConfig& config) {
  const int64_t rope_dim = reader.IntOr("qk_rope_head_dim", kPart, 64);
  reader.Alias("head_dim", "qk_rope_head_dim");
  ReadDecoder(reader, {.head_dim = rope_dim, .max_context = 4096}, config);
  config.latent = {.query_rank = reader.IntOrNone("q_lora_rank", kRank, 1536),
                   .kv_rank = reader.IntOr("kv_lora_rank", kRank, 512),
                   .nope_dim = reader.IntOr("qk_nope_head_dim", kPart, 128),
                   .rope_dim = rope_dim,
                   .value_dim = reader.IntOr("v_head_dim", kPart, 128)};
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.attention_scale = config.ropes[0].score_factor /
                           std::sqrt(static_cast<double>(config.latent.nope_dim + rope_dim));
  config.rope_interleaved = true;
}

void ReadDeepseekV2(ConfigReader& reader, ArchitectureConfig& config) {
  ReadLatent(reader, config);
  config.exact_rope = true;
  config.mlp_bias = reader.BoolOr("mlp_bias", false);
  ReadSharedExperts(reader, {.num_experts = 64, .experts_per_token = 6}, config);
  MoeConfig& moe = config.moe;
  moe.group_score_of_two = false;
  moe.group_hidden_score = 0;
  const std::string method = reader.StringOr("topk_method", "greedy");
  if (method == "greedy") {
    moe.groups = 1;
  } else if (method != "group_limited_greedy") {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      reader.where() + ": topk_method \"" + method + "\" is not supported"));
  }
}

void ReadDeepseekV3(ConfigReader& reader, ArchitectureConfig& config) {
  ReadLatent(reader, config);
  config.rope_interleaved = reader.BoolOr("rope_interleave", true);
  ReadSigmoidExperts(reader, config);
  config.moe.scale = reader.NumberOr("routed_scaling_factor", kFactorRange, 2.5);
}

}  // namespace

const Architecture kDeepseekV2 = {"deepseek_v2", "DeepseekV2ForCausalLM", ReadDeepseekV2,
                                  kSharedExpertsNames};
const Architecture kDeepseekV3 = {"deepseek_v3", "DeepseekV3ForCausalLM", ReadDeepseekV3,
                                  kSharedExpertsNames};

}  // namespace modeld
