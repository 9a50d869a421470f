// The layers of Granite 4.0 that are not attention: Mamba 2.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "server/engine/models/blocks.h"
#include "server/engine/models/causal_conv.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

// Of a token, x goes into the memory by the key, weighted by a step whose size also says how much
// of the memory fades; the query reads.
class Mamba final : public TokenMixer {
 public:
  Mamba(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config,
        int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const override;

 private:
  // x: float32 [rows, heads * value_dim]; each key head's part has a norm of its own.
  at::Tensor GatedNorm(const at::Tensor& x, const at::Tensor& gate) const;

  const RecurrentConfig sizes_;
  const Activation activation_;
  const double norm_eps_;
  const int64_t layer_;
  const Linear in_;  // to the gate, what is convolved and the steps
  const CausalConv conv_;
  const at::Tensor step_bias_;    // [heads]
  const at::Tensor decay_rate_;   // float32 [heads]
  const at::Tensor skip_;         // float32 [heads, 1]
  const at::Tensor norm_weight_;  // [heads * value_dim]
  const Linear out_;
};

}  // namespace modeld
