#include "server/engine/models/blocks.h"

#include <ATen/ATen.h>

namespace modeld {

Linear::Linear(const TensorSource& source, const std::string& name, bool has_bias, bool transposed)
    : weight_(source.Get(name + ".weight")) {
  if (transposed) weight_ = weight_.t();
  if (has_bias) bias_ = source.Get(name + ".bias");
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (bias_.defined()) return at::linear(x, weight_, bias_);
  return at::linear(x, weight_);
}

Linear Linear::Outputs(int64_t begin, int64_t count) const {
  Linear part;
  part.weight_ = weight_.narrow(0, begin, count);
  if (bias_.defined()) part.bias_ = bias_.narrow(0, begin, count);
  return part;
}

Linear Linear::OutputsOfHeads(int64_t heads, int64_t parts, int64_t part) const {
  Linear chosen;
  chosen.weight_ =
      weight_.view({heads, parts, -1, weight_.size(1)}).select(1, part).flatten(0, 1).contiguous();
  if (bias_.defined()) {
    chosen.bias_ = bias_.view({heads, parts, -1}).select(1, part).flatten().contiguous();
  }
  return chosen;
}

Norm::Norm(const TensorSource& source, const std::string& name, NormKind kind, double eps)
    : kind_(kind), weight_(source.Get(name + ".weight")), eps_(eps) {
  if (kind == NormKind::kLayer) bias_ = source.Get(name + ".bias").to(at::kFloat);
  if (kind != NormKind::kRms) weight_ = weight_.to(at::kFloat);
  if (kind == NormKind::kRmsPlusOne) weight_ = weight_ + 1;
}

at::Tensor Norm::operator()(const at::Tensor& x) const {
  if (!weight_.defined()) return x;
  if (kind_ == NormKind::kLayer || kind_ == NormKind::kLayerNoBias) {
    return at::layer_norm(x.to(at::kFloat), weight_.sizes(), weight_, bias_, eps_)
        .to(x.scalar_type());
  }
  const at::Tensor exact = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(exact.square().mean({-1}, /*keepdim=*/true) + eps_);
  if (kind_ == NormKind::kRms) return weight_ * (exact * scale).to(x.scalar_type());
  return (exact * scale * weight_).to(x.scalar_type());
}

at::Tensor RmsNormalized(const at::Tensor& x, double eps) {
  const at::Tensor exact = x.to(at::kFloat);
  return (exact * at::rsqrt(exact.square().mean({-1}, /*keepdim=*/true) + eps)).to(x.scalar_type());
}

at::Tensor Activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::kSilu:
      return at::silu(x);
    case Activation::kGelu:
      return at::gelu(x.to(at::kFloat)).to(x.scalar_type());
    case Activation::kGeluTanh:
      return at::gelu(x.to(at::kFloat), "tanh").to(x.scalar_type());
    case Activation::kClampedSwish:
      break;  // of two
  }
  TORCH_CHECK(false, "an activation without a function");
}

Mlp::Mlp(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config,
         bool fused)
    : activation_(config.activation), gated_(config.gated_mlp) {
  const auto read = [&](const char* name) {
    return Linear(source, prefix + name, config.mlp_bias, config.transposed_linear);
  };
  if (fused) {
    const Linear both = read("gate_up_proj");
    const int64_t inner = both.outputs() / 2;
    gate_ = both.Outputs(0, inner);
    up_ = both.Outputs(inner, inner);
  } else {
    if (gated_) gate_ = read("gate_proj");
    up_ = read("up_proj");
  }
  down_ = read("down_proj");
}

Mlp::Mlp(Linear gate, Linear up, Linear down, const ArchitectureConfig& config)
    : activation_(config.activation),
      swish_alpha_(config.swish_alpha),
      swish_limit_(config.swish_limit),
      gate_(std::move(gate)),
      up_(std::move(up)),
      down_(std::move(down)) {}

at::Tensor Mlp::operator()(const at::Tensor& x) const {
  if (activation_ == Activation::kClampedSwish) {
    const at::Tensor gate = gate_(x).clamp_max(swish_limit_);
    const at::Tensor up = up_(x).clamp(-swish_limit_, swish_limit_);
    return down_((up + 1) * (gate * at::sigmoid(gate * swish_alpha_)));
  }
  if (!gated_) return down_(Activate(activation_, up_(x)));
  return down_(Activate(activation_, gate_(x)) * up_(x));
}

}  // namespace modeld
