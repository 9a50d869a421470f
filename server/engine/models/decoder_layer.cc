#include "server/engine/models/decoder_layer.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace modeld {
namespace {

std::string PrefixOf(int64_t layer) { return absl::StrCat("model.layers.", layer, "."); }

}  // namespace

DecoderLayer::DecoderLayer(const TensorSource& source, const ArchitectureConfig& config,
                           int64_t layer)
    : layer_(layer),
      placement_(config.norm_placement),
      residual_multiplier_(config.residual_multiplier),
      attention_(MakeTokenMixer(source, PrefixOf(layer), config, layer)),
      has_both_(config.experts_beside_mlp),
      has_input_(config.layer_input_size > 0),
      activation_(config.activation) {
  const std::string prefix = PrefixOf(layer);
  const auto norm = [&](const char* name) {
    return Norm(source, prefix + name, config.norm, config.norm_eps);
  };
  const bool after = placement_ == NormPlacement::kAfter || placement_ == NormPlacement::kAfterSum;
  if (!after && config.layers[layer].attention_norm) attention_norm_ = norm("attention_norm");
  if (!after && placement_ != NormPlacement::kParallel) mlp_norm_ = norm("mlp_norm");
  if (after || placement_ == NormPlacement::kAround) {
    attention_after_norm_ = norm("attention_after_norm");
    mlp_after_norm_ = norm("mlp_after_norm");
  }
  const bool has_experts = config.layers[layer].moe;
  if (has_experts || has_both_) experts_.emplace(source, prefix + "mlp.", config);
  if (!has_experts) mlp_ = Mlp(source, prefix + "mlp.", config, config.fused_gate_up);
  if (has_both_) {
    mlp_only_after_norm_ = norm("mlp_only_after_norm");
    experts_norm_ = norm("experts_norm");
    experts_after_norm_ = norm("experts_after_norm");
  }
  if (has_input_) {
    input_gate_ = Linear(source, prefix + "layer_input_gate", false);
    input_projection_ = Linear(source, prefix + "layer_input_projection", false);
    input_after_norm_ = norm("layer_input_after_norm");
  }
  if (config.layer_scalar) scalar_ = source.Get(prefix + "layer_scalar");
}

at::Tensor DecoderLayer::FeedForward(const at::Tensor& x) const {
  const auto block = [&](const at::Tensor& rows) {
    return experts_ ? (*experts_)(rows) : mlp_(rows);
  };
  if (x.size(0) <= kPassTokens) return block(x);
  // A long text goes through the layers whole, but not through the widest part of them.
  at::Tensor out = at::empty_like(x);
  for (int64_t row = 0; row < x.size(0); row += kPassTokens) {
    const int64_t count = std::min(kPassTokens, x.size(0) - row);
    out.narrow(0, row, count).copy_(block(x.narrow(0, row, count)));
  }
  return out;
}

at::Tensor DecoderLayer::FeedForwardAround(const at::Tensor& x) const {
  if (!has_both_) return FeedForward(mlp_norm_(x));
  return mlp_only_after_norm_(mlp_(mlp_norm_(x))) +
         experts_after_norm_((*experts_)(experts_norm_(x), x));
}

at::Tensor DecoderLayer::WithOwnInput(const at::Tensor& hidden, const at::Tensor& input) const {
  const at::Tensor gated = Activate(activation_, input_gate_(hidden)) * input;
  return hidden + input_after_norm_(input_projection_(gated));
}

at::Tensor DecoderLayer::Forward(const at::Tensor& hidden, const Pass& pass) const {
  at::Tensor x = Blocks(hidden, pass);
  if (has_input_) x = WithOwnInput(x, pass.layer_inputs.select(1, layer_));
  return scalar_.defined() ? x * scalar_ : x;
}

at::Tensor DecoderLayer::Blocks(const at::Tensor& hidden, const Pass& pass) const {
  const auto added = [&](const at::Tensor& to, const at::Tensor& x) {
    return residual_multiplier_ == 1 ? to + x : to + x * residual_multiplier_;
  };
  switch (placement_) {
    case NormPlacement::kBefore: {
      const at::Tensor x = added(hidden, (*attention_)(attention_norm_(hidden), pass));
      return added(x, FeedForward(mlp_norm_(x)));
    }
    case NormPlacement::kAfter: {
      const at::Tensor x = added(hidden, attention_after_norm_((*attention_)(hidden, pass)));
      return added(x, mlp_after_norm_(FeedForward(x)));
    }
    case NormPlacement::kAfterSum: {
      const at::Tensor x = attention_after_norm_(added(hidden, (*attention_)(hidden, pass)));
      return mlp_after_norm_(added(x, FeedForward(x)));
    }
    case NormPlacement::kAround: {
      const at::Tensor attended = (*attention_)(attention_norm_(hidden), pass);
      const at::Tensor x = added(hidden, attention_after_norm_(attended));
      return added(x, mlp_after_norm_(FeedForwardAround(x)));
    }
    case NormPlacement::kParallel: {
      const at::Tensor x = attention_norm_(hidden);
      return added(added(hidden, (*attention_)(x, pass)), FeedForward(x));
    }
    case NormPlacement::kParallelOfTwo: {
      const at::Tensor attended = (*attention_)(attention_norm_(hidden), pass);
      return added(added(hidden, attended), FeedForward(mlp_norm_(hidden)));
    }
  }
  TORCH_CHECK(false, "a placement of norms without a forward");
}

}  // namespace modeld
