// Grouped causal self-attention over the paged cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>

#include "server/engine/models/attention.h"
#include "server/engine/models/blocks.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

class SelfAttention final : public TokenMixer {
 public:
  // "<prefix>q_proj" and so on, by the options of `config`.
  SelfAttention(const TensorSource& source, const std::string& prefix,
                const ArchitectureConfig& config, int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const override;

 private:
  void ReadProjections(const TensorSource& source, const std::string& prefix,
                       const ArchitectureConfig& config);
  // By heads, [rows, heads, head_dim], with norm and rope.
  at::Tensor Prepared(at::Tensor x, const Norm& norm, const Pass& pass) const;
  // Of a layer that makes them itself.
  std::pair<at::Tensor, at::Tensor> KeyAndValue(const at::Tensor& x, const Pass& pass) const;

  // [rows, heads, head_dim], both ways. x: what keys and values are made of.
  at::Tensor Attend(const at::Tensor& query, const at::Tensor& x, const Pass& pass) const;

  const int64_t index_;
  const LayerConfig layer_;
  const int64_t num_heads_;
  const int64_t head_dim_;
  const QkNorm qk_norm_;
  const bool value_norm_;
  const double norm_eps_;
  const bool gated_;    // a head's query is followed by its gate
  const int64_t rope_;  // index into Pass::turns, or -1
  const bool interleaved_;
  AttentionOptions options_;
  Linear query_;
  Linear key_;
  Linear value_;
  Linear output_;
  Norm query_norm_;
  Norm key_norm_;
};

}  // namespace modeld
