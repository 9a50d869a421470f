#include "server/engine/models/causal_conv.h"

#include <ATen/ATen.h>

namespace modeld {

CausalConv::CausalConv(const TensorSource& source, const std::string& name,
                       const RecurrentConfig& config)
    : weight_(source.Get(name + ".weight").squeeze(1).t().to(at::kFloat).contiguous()) {
  if (config.conv_bias) bias_ = source.Get(name + ".bias").to(at::kFloat);
}

at::Tensor CausalConv::operator()(const at::Tensor& x, const at::Tensor& windows,
                                  std::span<const RowGroup> groups) const {
  const int64_t tokens = weight_.size(0);
  at::Tensor out = at::empty_like(x);
  for (const RowGroup& group : groups) {
    const at::Tensor seen = at::cat({group.StateOf(windows), group.RowsOf(x).to(at::kFloat)}, 1);
    at::Tensor sum = seen.narrow(1, 0, group.length) * weight_[0];
    for (int64_t token = 1; token < tokens; ++token) {
      sum.addcmul_(seen.narrow(1, token, group.length), weight_[token]);
    }
    if (bias_.defined()) sum.add_(bias_);
    out.index_copy_(0, group.rows, sum.flatten(0, 1).to(x.scalar_type()));
    windows.index_copy_(0, group.slots, seen.narrow(1, group.length, tokens - 1));
  }
  return out;
}

}  // namespace modeld
