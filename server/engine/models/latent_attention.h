// Attention of DeepSeek V2 and V3 (MLA): keys and values of all heads are made from one small
// vector of each token, and only that vector is cached (https://arxiv.org/abs/2405.04434).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "server/engine/models/attention.h"
#include "server/engine/models/blocks.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/token_mixer.h"

namespace modeld {

// The matrices that make keys and values are moved to the other side of the products: queries and
// results of a head are of the size of the cached vector, which is key and value at once.
class LatentAttention final : public TokenMixer {
 public:
  LatentAttention(const TensorSource& source, const std::string& prefix,
                  const ArchitectureConfig& config, int64_t layer);

  at::Tensor operator()(const at::Tensor& x, const Pass& pass) const override;

 private:
  const LatentConfig sizes_;
  const int64_t num_heads_;
  const int64_t rope_;
  const bool interleaved_;
  const AttentionOptions options_;
  Linear query_down_;  // with query_norm_ and query_ in two steps, or query_ alone
  Norm query_norm_;
  Linear query_;
  Linear latent_;  // to the cached vector and the turned part of the key
  Norm latent_norm_;
  at::Tensor key_up_;    // [heads, nope_dim, kv_rank]
  at::Tensor value_up_;  // [heads, kv_rank, value_dim]
  Linear output_;
};

}  // namespace modeld
