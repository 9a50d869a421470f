// The layers of Qwen3-Next and Qwen3.5 that are not attention: a convolution, the gated delta rule,
// a norm under a gate.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "server/engine/models/blocks.h"
#include "server/engine/models/causal_conv.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

class DeltaNet final : public TokenMixer {
 public:
  DeltaNet(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config,
           int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const override;

 private:
  struct Projected {
    at::Tensor mixed;  // [rows, conv_channels]: queries, keys, values
    at::Tensor gate;   // [rows, heads, value_dim]
    at::Tensor beta;   // [rows, heads], before the sigmoid
    at::Tensor decay;  // [rows, heads], before everything
  };
  Projected Project(const at::Tensor& x) const;
  Projected ProjectByKeyHead(const at::Tensor& x) const;

  const RecurrentConfig sizes_;
  const Activation activation_;
  const int64_t layer_;
  Linear mixed_;
  Linear gate_;
  Linear beta_;
  Linear decay_;
  const CausalConv conv_;
  at::Tensor decay_rate_;  // float32 [heads]
  at::Tensor decay_bias_;  // float32 [heads]
  const Norm norm_;
  const Linear out_;
};

}  // namespace modeld
