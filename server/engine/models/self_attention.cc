#include "server/engine/models/self_attention.h"

#include <ATen/ATen.h>

#include "server/engine/models/rope.h"

namespace modeld {

SelfAttention::SelfAttention(const TensorSource& source, const std::string& prefix,
                             const ArchitectureConfig& config, int64_t layer)
    : index_(layer),
      layer_(config.layers[layer]),
      num_heads_(config.num_heads),
      head_dim_(layer_.head_dim),
      qk_norm_(config.qk_norm),
      value_norm_(config.value_norm),
      norm_eps_(config.norm_eps),
      gated_(config.attention_gate),
      rope_(config.ropes.empty() ? -1 : layer_.rope),
      interleaved_(config.rope_interleaved),
      options_({.layer = layer_.kv_layer >= 0 ? layer_.kv_layer : layer,
                .scale = config.attention_scale,
                .softcap = config.attention_softcap,
                .window = layer_.window,
                .both_ways = config.both_ways}) {
  ReadProjections(source, prefix, config);
  output_ =
      Linear(source, prefix + "o_proj", config.attention_output_bias, config.transposed_linear);
  if (qk_norm_ != QkNorm::kNone) {
    query_norm_ = Norm(source, prefix + "q_norm", config.norm, config.norm_eps);
    if (layer_.kv_layer < 0) {
      key_norm_ = Norm(source, prefix + "k_norm", config.norm, config.norm_eps);
    }
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
    if (layer_.kv_layer >= 0) return;
    key_ = read("k_proj");
    if (!layer_.keys_are_values) value_ = read("v_proj");
    return;
  }
  const Linear fused = read("qkv_proj");
  if (config.qkv_layout == QkvLayout::kFused) {
    const int64_t queries = num_heads_ * head_dim_;
    const int64_t keys = layer_.num_kv_heads * head_dim_;
    query_ = fused.Outputs(0, queries);
    key_ = fused.Outputs(queries, keys);
    value_ = fused.Outputs(queries + keys, keys);
  } else {
    query_ = fused.OutputsOfHeads(num_heads_, 3, 0);
    key_ = fused.OutputsOfHeads(num_heads_, 3, 1);
    value_ = fused.OutputsOfHeads(num_heads_, 3, 2);
  }
}

at::Tensor SelfAttention::Prepared(at::Tensor x, const Norm& norm, const Pass& pass) const {
  if (qk_norm_ == QkNorm::kHead) x = norm(x);
  return rope_ >= 0 ? ApplyRope(x, pass.turns[rope_], interleaved_) : x;
}

std::pair<at::Tensor, at::Tensor> SelfAttention::KeyAndValue(const at::Tensor& x,
                                                             const Pass& pass) const {
  const std::vector<int64_t> by_head = {x.size(0), layer_.num_kv_heads, head_dim_};
  at::Tensor key = key_(x);  // [rows, kv_heads * head_dim]
  at::Tensor value = (layer_.keys_are_values ? key : value_(x)).view(by_head);
  if (value_norm_) value = RmsNormalized(value, norm_eps_);
  if (qk_norm_ == QkNorm::kWhole) key = key_norm_(key);
  return {Prepared(key.view(by_head), key_norm_, pass), value};
}

at::Tensor SelfAttention::Attend(const at::Tensor& query, const at::Tensor& x,
                                 const Pass& pass) const {
  if (layer_.kv_layer >= 0) {
    // Queries are few where the keys of a sequence are many: they go there and back.
    const std::string& own = pass.devices->map().layers[index_];
    const std::string& theirs = pass.devices->map().layers[layer_.kv_layer];
    const at::Tensor there = pass.devices->Moved(query, own, theirs);
    return pass.devices->Moved(AttendPaged({there, {}, {}}, options_, pass), theirs, own);
  }
  const auto [key, value] = KeyAndValue(x, pass);
  return pass.kv == nullptr ? AttendWhole({query, key, value}, options_, pass)
                            : AttendPaged({query, key, value}, options_, pass);
}

at::Tensor SelfAttention::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  at::Tensor query = query_(x);  // [rows, heads * head_dim], twice that with gates
  at::Tensor gate;
  if (gated_) {
    const std::vector<at::Tensor> both = query.view({rows, num_heads_, 2 * head_dim_}).chunk(2, 2);
    query = both[0];
    gate = both[1].reshape({rows, num_heads_ * head_dim_});
  }
  if (qk_norm_ == QkNorm::kWhole) query = query_norm_(query);
  query = Prepared(query.view({rows, num_heads_, head_dim_}), query_norm_, pass);
  if (pass.query_scale.defined()) query = query * pass.query_scale;
  const at::Tensor joined = Attend(query, x, pass).view({rows, num_heads_ * head_dim_});
  return output_(gated_ ? joined * at::sigmoid(gate) : joined);
}

}  // namespace modeld
