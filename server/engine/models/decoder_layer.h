// One layer of a decoder: attention and a feed-forward network around the residual stream.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "server/engine/models/blocks.h"
#include "server/engine/models/moe.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

class DecoderLayer {
 public:
  DecoderLayer(const TensorSource& source, const ArchitectureConfig& config, int64_t layer);

  at::Tensor Forward(const at::Tensor& hidden, const Pass& pass) const;  // [rows, hidden]

 private:
  at::Tensor FeedForward(const at::Tensor& x) const;

  const NormPlacement placement_;
  const double residual_multiplier_;
  std::unique_ptr<TokenMixer> attention_;
  Norm attention_norm_;
  Norm attention_after_norm_;
  Norm mlp_norm_;
  Norm mlp_after_norm_;
  Mlp mlp_;  // one of these
  std::optional<Moe> experts_;
};

}  // namespace modeld
