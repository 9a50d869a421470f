#include "server/engine/models/latent_attention.h"

#include <ATen/ATen.h>

#include "server/engine/models/rope.h"

namespace modeld {
namespace {

// The reference leaves the default of its class here, whatever the configuration says.
constexpr double kNormEps = 1e-6;

}  // namespace

LatentAttention::LatentAttention(const TensorSource& source, const std::string& prefix,
                                 const ArchitectureConfig& config, int64_t layer)
    : sizes_(config.latent),
      num_heads_(config.num_heads),
      rope_(config.layers[layer].rope),
      interleaved_(config.rope_interleaved),
      options_({.layer = layer, .scale = config.attention_scale}) {
  if (sizes_.query_rank > 0) {
    query_down_ = Linear(source, prefix + "q_a_proj", config.qkv_bias);
    query_norm_ = Norm(source, prefix + "q_a_layernorm", config.norm, kNormEps);
    query_ = Linear(source, prefix + "q_b_proj", false);
  } else {
    query_ = Linear(source, prefix + "q_proj", false);
  }
  latent_ = Linear(source, prefix + "kv_a_proj_with_mqa", config.qkv_bias);
  latent_norm_ = Norm(source, prefix + "kv_a_layernorm", config.norm, kNormEps);
  const at::Tensor up = source.Get(prefix + "kv_b_proj.weight")
                            .view({num_heads_, sizes_.nope_dim + sizes_.value_dim, -1});
  key_up_ = up.narrow(1, 0, sizes_.nope_dim);
  value_up_ = up.narrow(1, sizes_.nope_dim, sizes_.value_dim).transpose(1, 2);
  output_ = Linear(source, prefix + "o_proj", config.attention_output_bias);
}

at::Tensor LatentAttention::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  at::Tensor query = sizes_.query_rank > 0 ? query_(query_norm_(query_down_(x))) : query_(x);
  query = query.view({rows, num_heads_, sizes_.nope_dim + sizes_.rope_dim});
  const at::Tensor plain = query.narrow(2, 0, sizes_.nope_dim);  // [rows, heads, nope_dim]
  const at::Tensor turned =
      ApplyRope(query.narrow(2, sizes_.nope_dim, sizes_.rope_dim), pass.turns[rope_], interleaved_);

  const at::Tensor both = latent_(x);  // [rows, kv_rank + rope_dim]
  const at::Tensor latent = latent_norm_(both.narrow(1, 0, sizes_.kv_rank)).unsqueeze(1);
  const at::Tensor turned_key =
      ApplyRope(both.narrow(1, sizes_.kv_rank, sizes_.rope_dim).unsqueeze(1), pass.turns[rope_],
                interleaved_);  // [rows, 1, rope_dim]

  const at::Tensor lifted =
      at::bmm(plain.transpose(0, 1), key_up_).transpose(0, 1);  // [rows, heads, kv_rank]
  const at::Tensor heads = AttendPaged({.query = at::cat({lifted, turned}, -1),
                                        .key = at::cat({latent, turned_key}, -1),
                                        .value = latent},
                                       options_, pass);                 // [rows, heads, kv_rank]
  const at::Tensor values = at::bmm(heads.transpose(0, 1), value_up_);  // [heads, rows, value_dim]
  return output_(values.transpose(0, 1).reshape({rows, num_heads_ * sizes_.value_dim}));
}

}  // namespace modeld
