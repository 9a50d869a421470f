#include <limits>
#include <string>

#include "absl/strings/str_format.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

constexpr Range<int64_t> kExperts{1, 1 << 12};
// Of all layers together: each has tensors of its own, and all are listed in memory.
constexpr int64_t kExpertsOfModelMax = 1 << 17;

void ReadGroups(ConfigReader& reader, MoeConfig& moe) {
  moe.groups = reader.IntOr("n_group", kExperts, 1);
  moe.groups_per_token = reader.IntOr("topk_group", kExperts, 1);
  moe.group_hidden_score = -std::numeric_limits<double>::infinity();
  if (moe.groups == 1) return;
  const int64_t of_group = moe.num_experts / moe.groups;
  if (moe.num_experts % moe.groups != 0 || of_group < 2) {
    reader.Refuse(
        "n_group", std::to_string(moe.groups),
        absl::StrFormat("must divide the %d experts into groups of two or more", moe.num_experts));
  }
  if (moe.groups_per_token > moe.groups ||
      moe.experts_per_token > moe.groups_per_token * of_group) {
    reader.Refuse("topk_group", std::to_string(moe.groups_per_token),
                  absl::StrFormat("must choose among %d groups enough for %d experts", moe.groups,
                                  moe.experts_per_token));
  }
}

}  // namespace

void ReadExperts(ConfigReader& reader, const char* key, const MoeConfig& defaults,
                 ArchitectureConfig& config) {
  MoeConfig& moe = config.moe;
  moe.num_experts = reader.IntOr(key, kExperts, defaults.num_experts);
  moe.experts_per_token = reader.IntOr("num_experts_per_tok", kExperts, defaults.experts_per_token);
  if (moe.num_experts * config.num_layers > kExpertsOfModelMax) {
    reader.Refuse(key, std::to_string(moe.num_experts),
                  absl::StrFormat("the %d layers may have at most %d together", config.num_layers,
                                  kExpertsOfModelMax));
    moe.num_experts = 1;
  }
  if (moe.experts_per_token > moe.num_experts) {
    reader.Refuse("num_experts_per_tok", std::to_string(moe.experts_per_token),
                  absl::StrFormat("must be at most %s, %d", key, moe.num_experts));
  }
}

void ReadQwenExperts(ConfigReader& reader, const MoeConfig& defaults, ArchitectureConfig& config) {
  ReadExperts(reader, "num_experts", defaults, config);
  // Every decoder_sparse_step-th layer that mlp_only_layers does not name.
  const int64_t step = reader.IntOr("decoder_sparse_step", {1, 1 << 12}, 1);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers[layer].moe = (layer + 1) % step == 0;
  }
  for (const int64_t layer : reader.IntsOf("mlp_only_layers", {0, 1 << 12})) {
    if (layer < config.num_layers) config.layers[layer].moe = false;
  }
  config.moe.intermediate_size = reader.Int("moe_intermediate_size", kIntermediateRange);
  config.moe.normalize = reader.BoolOr("norm_topk_prob", defaults.normalize);
}

void ReadSharedExperts(ConfigReader& reader, const MoeConfig& defaults,
                       ArchitectureConfig& config) {
  ReadExperts(reader, "n_routed_experts", defaults, config);
  MoeConfig& moe = config.moe;
  moe.intermediate_size = reader.Int("moe_intermediate_size", kIntermediateRange);
  moe.shared_intermediate_size =
      moe.intermediate_size * reader.IntOr("n_shared_experts", {0, 64}, 1);
  moe.exact_router = true;
  moe.scale = reader.NumberOr("routed_scaling_factor", kFactorRange, 1);
  ReadGroups(reader, moe);
  const int64_t dense = reader.IntOr("first_k_dense_replace", {0, 1 << 12}, 0);
  for (int64_t layer = dense; layer < config.num_layers; ++layer) config.layers[layer].moe = true;
  config.unused_layers = reader.IntOr("num_nextn_predict_layers", {0, 64}, 0);
}

void ReadSigmoidExperts(ConfigReader& reader, ArchitectureConfig& config) {
  ReadSharedExperts(reader, {.num_experts = 128, .experts_per_token = 8}, config);
  config.moe.scoring = MoeConfig::Scoring::kSigmoid;
  config.moe.choice_bias = true;
  config.moe.normalize = reader.BoolOr("norm_topk_prob", true);
}

}  // namespace modeld
