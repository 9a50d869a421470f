// The blocks that decoders are made of. Each rounds where transformers rounds, so that bfloat16
// results differ from float32 ones as little as the reference's do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>

#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// y = x W^T + b over the last dimension.
class Linear {
 public:
  Linear() = default;
  // weight: [out, in]; bias: [out], or undefined.
  Linear(at::Tensor weight, at::Tensor bias) : weight_(std::move(weight)), bias_(std::move(bias)) {}
  // "<name>.weight" and, with `has_bias`, "<name>.bias".
  Linear(const TensorSource& source, const std::string& name, bool has_bias,
         bool transposed = false);

  at::Tensor operator()(const at::Tensor& x) const;
  int64_t outputs() const { return weight_.size(0); }

  // The part that makes outputs [begin, begin + count); shares the weight.
  Linear Outputs(int64_t begin, int64_t count) const;
  // The part that makes the outputs of `part` when these are [heads, parts, size], as [heads,
  // size].
  Linear OutputsOfHeads(int64_t heads, int64_t parts, int64_t part) const;

 private:
  at::Tensor weight_;  // [out, in]
  at::Tensor bias_;    // [out], may be undefined
};

// Over the last dimension. Made without arguments it changes nothing.
class Norm {
 public:
  Norm() = default;
  Norm(const TensorSource& source, const std::string& name, NormKind kind, double eps);

  at::Tensor operator()(const at::Tensor& x) const;

 private:
  NormKind kind_ = NormKind::kRms;
  at::Tensor weight_;
  at::Tensor bias_;
  double eps_ = 0;
};

// x / rms in float32, rounded once.
at::Tensor RmsNormalized(const at::Tensor& x, double eps);

at::Tensor Activate(Activation activation, const at::Tensor& x);

// down(activation(gate(x)) * up(x)), or down(activation(up(x))) without a gate; see kClampedSwish
// for the one activation of both.
class Mlp {
 public:
  Mlp() = default;
  Mlp(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config,
      bool fused = false);
  // The activation's options are those of `config`.
  Mlp(Linear gate, Linear up, Linear down, const ArchitectureConfig& config);

  at::Tensor operator()(const at::Tensor& x) const;  // [rows, hidden], both ways

 private:
  Activation activation_ = Activation::kSilu;
  double swish_alpha_ = 0;  // kClampedSwish
  double swish_limit_ = 0;  // kClampedSwish
  bool gated_ = true;
  Linear gate_;
  Linear up_;
  Linear down_;
};

}  // namespace modeld
