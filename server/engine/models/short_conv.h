// The gated convolution of LFM2.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "server/engine/models/blocks.h"
#include "server/engine/models/causal_conv.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

class ShortConv final : public TokenMixer {
 public:
  ShortConv(const TensorSource& source, const std::string& prefix, const ArchitectureConfig& config,
            int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const override;

 private:
  const int64_t layer_;
  const Linear in_;  // to the gates before and after, and what is mixed
  const CausalConv conv_;
  const Linear out_;
};

}  // namespace modeld
