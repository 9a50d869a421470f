// The blocks that decoders are made of. Each rounds where transformers rounds, so that bfloat16
// results differ from float32 ones as little as the reference's do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "server/engine/models/pass.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// y = x W^T + b over the last dimension.
class Linear {
 public:
  Linear() = default;
  // "<name>.weight" and, with `has_bias`, "<name>.bias".
  Linear(const TensorSource& source, const std::string& name, bool has_bias);

  at::Tensor operator()(const at::Tensor& x) const;

 private:
  at::Tensor weight_;  // [out, in]
  at::Tensor bias_;    // [out], may be undefined
};

// x / sqrt(mean(x^2) + eps) in float32, rounded, then times the weight.
class RmsNorm {
 public:
  RmsNorm() = default;
  RmsNorm(const TensorSource& source, const std::string& name, double eps);

  at::Tensor operator()(const at::Tensor& x) const;

 private:
  at::Tensor weight_;
  double eps_ = 0;
};

// down(silu(gate(x)) * up(x)).
class GatedMlp {
 public:
  GatedMlp(const TensorSource& source, const std::string& prefix, bool has_bias);

  at::Tensor operator()(const at::Tensor& x) const;  // [rows, hidden], both ways

 private:
  Linear gate_;
  Linear up_;
  Linear down_;
};

// Grouped causal self-attention with rope over the paged cache.
class SelfAttention {
 public:
  // "<prefix>q_proj" and so on; biases and norms of queries and keys by the flags of `config`.
  SelfAttention(const TensorSource& source, const std::string& prefix,
                const ArchitectureConfig& config, int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const;  // [rows, hidden], both ways

 private:
  const int64_t layer_;
  const int64_t num_heads_;
  const int64_t num_kv_heads_;
  const int64_t head_dim_;
  const bool qk_norm_;
  Linear query_;
  Linear key_;
  Linear value_;
  Linear output_;
  RmsNorm query_norm_;
  RmsNorm key_norm_;
};

}  // namespace modeld
