#include "server/engine/models/self_attention.h"

#include <ATen/ATen.h>

#include "server/engine/models/rope.h"

namespace modeld {

SelfAttention::SelfAttention(const TensorSource& source, const std::string& prefix,
                             const ArchitectureConfig& config, int64_t layer)
    : num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      qk_norm_(config.qk_norm),
      rope_(config.ropes.empty() ? -1 : config.layers[layer].rope),
      interleaved_(config.rope_interleaved),
      options_({.layer = layer,
                .scale = config.attention_scale,
                .softcap = config.attention_softcap,
                .window = config.layers[layer].window}) {
  ReadProjections(source, prefix, config);
  output_ =
      Linear(source, prefix + "o_proj", config.attention_output_bias, config.transposed_linear);
  if (qk_norm_ != QkNorm::kNone) {
    query_norm_ = Norm(source, prefix + "q_norm", config.norm, config.norm_eps);
    key_norm_ = Norm(source, prefix + "k_norm", config.norm, config.norm_eps);
  }
  if (config.attention_sinks) options_.sinks = source.Get(prefix + "sinks").to(at::kFloat);
}

void SelfAttention::ReadProjections(const TensorSource& source, const std::string& prefix,
                                    const ArchitectureConfig& config) {
  const auto read = [&](const char* name) {
    return Linear(source, prefix + name, config.qkv_bias, config.transposed_linear);
  };
  if (config.qkv_layout == QkvLayout::kSeparate) {
    query_ = read("q_proj");
    key_ = read("k_proj");
    value_ = read("v_proj");
    return;
  }
  const Linear fused = read("qkv_proj");
  if (config.qkv_layout == QkvLayout::kFused) {
    const int64_t queries = num_heads_ * head_dim_;
    const int64_t keys = num_kv_heads_ * head_dim_;
    query_ = fused.Outputs(0, queries);
    key_ = fused.Outputs(queries, keys);
    value_ = fused.Outputs(queries + keys, keys);
  } else {
    query_ = fused.OutputsOfHeads(num_heads_, 3, 0);
    key_ = fused.OutputsOfHeads(num_heads_, 3, 1);
    value_ = fused.OutputsOfHeads(num_heads_, 3, 2);
  }
}

at::Tensor SelfAttention::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  at::Tensor query = query_(x);  // [rows, heads * head_dim]
  at::Tensor key = key_(x);      // [rows, kv_heads * head_dim]
  if (qk_norm_ == QkNorm::kWhole) {
    query = query_norm_(query);
    key = key_norm_(key);
  }
  query = query.view({rows, num_heads_, head_dim_});
  key = key.view({rows, num_kv_heads_, head_dim_});
  const at::Tensor value = value_(x).view({rows, num_kv_heads_, head_dim_});
  if (qk_norm_ == QkNorm::kHead) {
    query = query_norm_(query);
    key = key_norm_(key);
  }
  if (rope_ >= 0) {
    query = ApplyRope(query, pass.turns[rope_], interleaved_);
    key = ApplyRope(key, pass.turns[rope_], interleaved_);
  }
  if (pass.query_scale.defined()) query = query * pass.query_scale;
  const at::Tensor heads = AttendPaged({query, key, value}, options_, pass);
  return output_(heads.view({rows, num_heads_ * head_dim_}));
}

}  // namespace modeld
