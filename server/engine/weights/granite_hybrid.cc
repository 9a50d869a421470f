// Granite 4.0: Mamba 2 in most layers and attention in the others, experts or none beside a
// feed-forward network that sees every token, Granite's factors.
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadSteps(ConfigReader& reader, RecurrentConfig& recurrent) {
  recurrent.step_max = std::numeric_limits<double>::infinity();
  const std::vector<double> limits = reader.NumbersOf("time_step_limit", {0, 1e9});
  if (limits.empty()) return;
  if (limits.size() != 2 || limits[0] > limits[1]) {
    reader.Refuse("time_step_limit", absl::StrFormat("a list of %d", limits.size()),
                  "must be a lower and an upper limit");
    return;
  }
  recurrent.step_min = limits[0];
  recurrent.step_max = limits[1];
}

void ReadMamba(ConfigReader& reader, ArchitectureConfig& config) {
  RecurrentConfig& recurrent = config.recurrent;
  recurrent.conv_tokens = reader.IntOr("mamba_d_conv", kConvTokensRange, 4);
  recurrent.conv_bias = reader.BoolOr("mamba_conv_bias", true);
  recurrent.projection_bias = reader.BoolOr("mamba_proj_bias", false);
  recurrent.heads = reader.IntOr("mamba_n_heads", kHeadsRange, 128);
  recurrent.key_heads = reader.IntOr("mamba_n_groups", kHeadsRange, 1);
  recurrent.key_dim = reader.IntOr("mamba_d_state", kHeadDimRange, 256);
  const int64_t inner = reader.IntOr("mamba_expand", {1, 64}, 2) * config.hidden_size;
  if (inner % recurrent.heads != 0 || recurrent.heads % recurrent.key_heads != 0) {
    reader.Refuse("mamba_n_heads", std::to_string(recurrent.heads),
                  absl::StrFormat("must divide mamba_expand times hidden_size, %d, and be a "
                                  "multiple of mamba_n_groups, %d",
                                  inner, recurrent.key_heads));
  }
  recurrent.value_dim = inner / recurrent.heads;
  recurrent.conv_channels = inner + 2 * recurrent.key_heads * recurrent.key_dim;
  ReadSteps(reader, recurrent);
  // Without a list no layer has attention.
  ReadMixers(reader, {Mixer::kMamba, "linear_attention"}, config.num_layers + 1, config);
}

void ReadFeedForward(ConfigReader& reader, ArchitectureConfig& config) {
  const int64_t shared = reader.IntOr("shared_intermediate_size", kIntermediateRange, 1024);
  if (reader.IntOr("num_local_experts", {0, 1 << 12}, 8) == 0) {
    config.intermediate_size = shared;
    config.fused_gate_up = true;
    return;
  }
  ReadExperts(reader, "num_local_experts", {.num_experts = 8, .experts_per_token = 2}, config);
  config.moe.intermediate_size = config.intermediate_size;
  config.moe.shared_intermediate_size = shared;
  config.moe.shared_fused = true;
  config.moe.scoring = MoeConfig::Scoring::kSoftmaxOfTop;
  config.moe.layout = ExpertsLayout::kStacked;
  for (LayerConfig& layer : config.layers) layer.moe = true;
}

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadGranite(reader, config);
  ReadMamba(reader, config);
  ReadFeedForward(reader, config);
  if (reader.StringOr("position_embedding_type", "nope") == "rope") return;
  config.ropes.clear();
  for (LayerConfig& layer : config.layers) layer.rope = -1;
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"},
                             {"mlp_norm", "post_attention_layernorm"},
                             {"mlp.router", "block_sparse_moe.router.layer"},
                             {"mlp.experts.gate_up_proj", "block_sparse_moe.input_linear"},
                             {"mlp.experts.down_proj", "block_sparse_moe.output_linear"},
                             {"mlp.shared_expert.gate_up_proj", "shared_mlp.input_linear"},
                             {"mlp.shared_expert.down_proj", "shared_mlp.output_linear"},
                             {"mlp.gate_up_proj", "shared_mlp.input_linear"},
                             {"mlp.down_proj", "shared_mlp.output_linear"}};

}  // namespace

const Architecture kGraniteMoeHybrid = {"granitemoehybrid", "GraniteMoeHybridForCausalLM", Read,
                                        kNames};

}  // namespace modeld
