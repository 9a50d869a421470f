#include "server/engine/models/blocks.h"

#include <ATen/ATen.h>

#include "server/engine/models/attention.h"
#include "server/engine/models/rope.h"

namespace modeld {

Linear::Linear(const TensorSource& source, const std::string& name, bool has_bias)
    : weight_(source.Get(name + ".weight")) {
  if (has_bias) bias_ = source.Get(name + ".bias");
}

at::Tensor Linear::operator()(const at::Tensor& x) const {
  if (bias_.defined()) return at::linear(x, weight_, bias_);
  return at::linear(x, weight_);
}

RmsNorm::RmsNorm(const TensorSource& source, const std::string& name, double eps)
    : weight_(source.Get(name + ".weight")), eps_(eps) {}

at::Tensor RmsNorm::operator()(const at::Tensor& x) const {
  const at::Tensor exact = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(exact.square().mean({-1}, /*keepdim=*/true) + eps_);
  return weight_ * (exact * scale).to(x.scalar_type());
}

GatedMlp::GatedMlp(const TensorSource& source, const std::string& prefix, bool has_bias)
    : gate_(source, prefix + "gate_proj", has_bias),
      up_(source, prefix + "up_proj", has_bias),
      down_(source, prefix + "down_proj", has_bias) {}

at::Tensor GatedMlp::operator()(const at::Tensor& x) const {
  return down_(at::silu(gate_(x)) * up_(x));
}

SelfAttention::SelfAttention(const TensorSource& source, const std::string& prefix,
                             const ArchitectureConfig& config, int64_t layer)
    : layer_(layer),
      num_heads_(config.num_heads),
      num_kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim),
      qk_norm_(config.qk_norm),
      query_(source, prefix + "q_proj", config.qkv_bias),
      key_(source, prefix + "k_proj", config.qkv_bias),
      value_(source, prefix + "v_proj", config.qkv_bias),
      output_(source, prefix + "o_proj", config.attention_output_bias) {
  if (qk_norm_) {
    query_norm_ = RmsNorm(source, prefix + "q_norm", config.rms_norm_eps);
    key_norm_ = RmsNorm(source, prefix + "k_norm", config.rms_norm_eps);
  }
}

at::Tensor SelfAttention::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  at::Tensor query = query_(x).view({rows, num_heads_, head_dim_});
  at::Tensor key = key_(x).view({rows, num_kv_heads_, head_dim_});
  const at::Tensor value = value_(x).view({rows, num_kv_heads_, head_dim_});
  if (qk_norm_) {
    query = query_norm_(query);
    key = key_norm_(key);
  }
  query = ApplyRope(query, pass.cos, pass.sin);
  key = ApplyRope(key, pass.cos, pass.sin);
  const at::Tensor heads = AttendPaged({query, key, value}, layer_, pass);
  return output_(heads.view({rows, num_heads_ * head_dim_}));
}

}  // namespace modeld
