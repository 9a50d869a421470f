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
  // Of mlp_norm_(x), and with experts beside it of x.
  at::Tensor FeedForwardAround(const at::Tensor& x) const;
  at::Tensor Blocks(const at::Tensor& hidden, const Pass& pass) const;
  // input: [rows, layer_input_size], the layer's own of each token.
  at::Tensor WithOwnInput(const at::Tensor& hidden, const at::Tensor& input) const;

  const int64_t layer_;
  const NormPlacement placement_;
  const double residual_multiplier_;
  std::unique_ptr<TokenMixer> attention_;
  Norm attention_norm_;
  Norm attention_after_norm_;
  Norm mlp_norm_;
  Norm mlp_after_norm_;
  Mlp mlp_;  // one of these, or both with a norm after each
  std::optional<Moe> experts_;
  const bool has_both_;
  Norm mlp_only_after_norm_;
  Norm experts_norm_;
  Norm experts_after_norm_;
  // Of the layer's own input.
  const bool has_input_;
  const Activation activation_;
  Linear input_gate_;
  Linear input_projection_;
  Norm input_after_norm_;
  at::Tensor scalar_;  // [1], may be undefined
};

}  // namespace modeld
