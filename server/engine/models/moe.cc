#include "server/engine/models/moe.h"

#include <ATen/ATen.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/engine/models/mxfp4.h"

namespace modeld {

Moe::Moe(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config)
    : options_(config.moe),
      router_(source.Get(prefix + "router.weight")),
      norm_eps_(config.norm_eps) {
  if (options_.choice_bias) {
    choice_bias_ = source.Get(prefix + "router.e_score_correction_bias").to(at::kFloat);
  }
  if (options_.scaled_router) {
    input_scale_ = source.Get(prefix + "router.scale");
    expert_scale_ = source.Get(prefix + "router.per_expert_scale");
  }
  switch (options_.layout) {
    case ExpertsLayout::kSeparate:
      for (int64_t expert = 0; expert < options_.num_experts; ++expert) {
        experts_.emplace_back(source, absl::StrCat(prefix, "experts.", expert, "."), config);
      }
      break;
    case ExpertsLayout::kStacked:
      ReadStackedExperts(source, prefix, config);
      break;
    case ExpertsLayout::kInterleaved:
      ReadInterleavedExperts(source, prefix, config);
      break;
  }
  if (options_.shared_intermediate_size > 0) {
    shared_ = Mlp(source, prefix + "shared_expert.", config, options_.shared_fused);
  }
  if (options_.shared_gate) shared_gate_ = Linear(source, prefix + "shared_expert_gate", false);
}

void Moe::ReadStackedExperts(const TensorSource& source, const std::string& prefix,
                             const ArchitectureConfig& config) {
  const at::Tensor gate_up = source.Get(prefix + "experts.gate_up_proj.weight");
  const at::Tensor down = source.Get(prefix + "experts.down_proj.weight");
  const int64_t inner = options_.intermediate_size;
  for (int64_t expert = 0; expert < options_.num_experts; ++expert) {
    const Linear both(gate_up[expert], {});
    experts_.emplace_back(both.Outputs(0, inner), both.Outputs(inner, inner),
                          Linear(down[expert], {}), config);
  }
}

void Moe::ReadInterleavedExperts(const TensorSource& source, const std::string& prefix,
                                 const ArchitectureConfig& config) {
  router_bias_ = source.Get(prefix + "router.bias");
  const std::string gate_up = prefix + "experts.gate_up_proj";
  const std::string down = prefix + "experts.down_proj";
  const at::Tensor gate_up_bias = source.Get(gate_up + ".bias");  // [experts, 2 * intermediate]
  const at::Tensor down_bias = source.Get(down + ".bias");        // [experts, hidden]
  const auto weight_of = [&](const std::string& name, int64_t expert) {  // [out, in]
    if (!options_.mxfp4) return source.Get(name + ".weight")[expert].t();
    return DequantizeMxfp4(source.Get(name + ".blocks")[expert],
                           source.Get(name + ".scales")[expert], gate_up_bias.scalar_type());
  };
  const auto every_second = [](const at::Tensor& x, int64_t first) {
    return x.slice(0, first, x.size(0), 2).contiguous();
  };
  for (int64_t expert = 0; expert < options_.num_experts; ++expert) {
    const at::Tensor both = weight_of(gate_up, expert);
    const at::Tensor bias = gate_up_bias[expert];
    experts_.emplace_back(Linear(every_second(both, 0), every_second(bias, 0)),
                          Linear(every_second(both, 1), every_second(bias, 1)),
                          Linear(weight_of(down, expert).contiguous(), down_bias[expert]), config);
  }
}

at::Tensor Moe::OfBestGroups(const at::Tensor& scores) const {
  const int64_t rows = scores.size(0);
  const at::Tensor grouped = scores.view({rows, options_.groups, -1});
  const at::Tensor of_group = options_.group_score_of_two
                                  ? std::get<0>(grouped.topk(2, -1)).sum(-1)
                                  : std::get<0>(grouped.max(-1));  // [rows, groups]
  const at::Tensor best = std::get<1>(of_group.topk(options_.groups_per_token, -1));
  const at::Tensor hidden =
      at::ones_like(of_group, at::kBool).scatter(1, best, false).unsqueeze(-1);
  return grouped.masked_fill(hidden, options_.group_hidden_score).view({rows, -1});
}

at::Tensor Moe::Scaled(const at::Tensor& x) const {
  if (!input_scale_.defined()) return x;
  const double by_size = 1 / std::sqrt(static_cast<double>(x.size(1)));
  return RmsNormalized(x, norm_eps_) * input_scale_ * by_size;
}

Moe::Choice Moe::Choose(const at::Tensor& rows) const {
  using Scoring = MoeConfig::Scoring;
  const int64_t count = options_.experts_per_token;
  const at::Tensor x = Scaled(rows);
  // Sigmoids are computed from float32 products, as the reference does.
  const at::Tensor logits = options_.exact_router
                                ? at::linear(x.to(at::kFloat), router_.to(at::kFloat))
                                : at::linear(x, router_, router_bias_).to(at::kFloat);
  if (options_.scoring == Scoring::kSoftmaxOfTop) {
    const auto [top, experts] = logits.topk(count, -1);
    return {experts, at::softmax(top, -1)};
  }
  const at::Tensor scores =
      options_.scoring == Scoring::kSigmoid ? at::sigmoid(logits) : at::softmax(logits, -1);
  at::Tensor for_choice = choice_bias_.defined() ? scores + choice_bias_ : scores;
  if (options_.groups > 1) for_choice = OfBestGroups(for_choice);
  const at::Tensor experts = std::get<1>(for_choice.topk(count, -1));
  at::Tensor weights = scores.gather(1, experts);
  if (options_.normalize) weights = weights / (weights.sum({-1}, /*keepdim=*/true) + 1e-20);
  if (expert_scale_.defined()) weights = weights * expert_scale_.index({experts});
  return {experts, weights * options_.scale};
}

at::Tensor Moe::operator()(const at::Tensor& x, const at::Tensor& for_choice) const {
  const Choice choice = Choose(for_choice);
  const at::Tensor chosen = choice.experts.to(at::kCPU).contiguous();
  const int64_t count = options_.experts_per_token;
  // Places in `choice`, flattened, of each expert.
  std::vector<std::vector<int64_t>> places(experts_.size());
  for (int64_t place = 0; place < chosen.numel(); ++place) {
    places[chosen.data_ptr<int64_t>()[place]].push_back(place);
  }
  at::Tensor sum = at::zeros_like(x);
  for (size_t expert = 0; expert < experts_.size(); ++expert) {
    if (places[expert].empty()) continue;
    const at::Tensor mine = at::tensor(places[expert], at::kLong).to(x.device());
    const at::Tensor rows = mine.div(count, "floor");
    const at::Tensor weights = choice.weights.flatten().index_select(0, mine).unsqueeze(1);
    const at::Tensor out = experts_[expert](x.index_select(0, rows));
    sum.index_add_(0, rows, (out * weights).to(x.scalar_type()));
  }
  if (options_.shared_intermediate_size == 0) return sum;
  const at::Tensor shared = shared_(x);
  return sum + (options_.shared_gate ? at::sigmoid(shared_gate_(x)) * shared : shared);
}

}  // namespace modeld
