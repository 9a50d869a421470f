#include "server/engine/models/mamba.h"

#include <ATen/ATen.h>

#include "server/engine/models/recurrence.h"

namespace modeld {

Mamba::Mamba(const TensorSource& source, const std::string& prefix,
             const ArchitectureConfig& config, int64_t layer)
    : sizes_(config.recurrent),
      activation_(config.activation),
      norm_eps_(config.norm_eps),
      layer_(layer),
      in_(source, prefix + "in_proj", sizes_.projection_bias),
      conv_(source, prefix + "conv1d", sizes_),
      step_bias_(source.Get(prefix + "dt_bias")),
      decay_rate_(source.Get(prefix + "A_log").to(at::kFloat).exp()),
      skip_(source.Get(prefix + "D").to(at::kFloat).unsqueeze(1)),
      norm_weight_(source.Get(prefix + "norm.weight")),
      out_(source, prefix + "out_proj", sizes_.projection_bias) {}

at::Tensor Mamba::GatedNorm(const at::Tensor& x, const at::Tensor& gate) const {
  const at::Tensor gated = (x * at::silu(gate.to(at::kFloat)))
                               .unflatten(1, {sizes_.key_heads, -1});  // [rows, key_heads, ...]
  const at::Tensor scale = at::rsqrt(gated.square().mean({-1}, /*keepdim=*/true) + norm_eps_);
  return norm_weight_ * (gated * scale).flatten(1);
}

at::Tensor Mamba::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  const int64_t inner = sizes_.heads * sizes_.value_dim;
  const int64_t keys = sizes_.key_heads * sizes_.key_dim;
  const std::vector<at::Tensor> parts =
      in_(x).split_with_sizes({inner, sizes_.conv_channels, sizes_.heads}, 1);
  const at::Tensor mixed =
      Activate(activation_, conv_(parts[1], pass.states->window(layer_), pass.groups))
          .to(at::kFloat);
  const auto by_key_head = [&](int64_t begin) {
    return mixed.narrow(1, begin, keys).view({rows, sizes_.key_heads, sizes_.key_dim});
  };
  const at::Tensor value = mixed.narrow(1, 0, inner).view({rows, sizes_.heads, sizes_.value_dim});
  // Rounded at each of these, as the reference does.
  const at::Tensor shifted = parts[2] + step_bias_;
  const at::Tensor steps = at::softplus(shifted.to(at::kFloat))
                               .to(x.scalar_type())
                               .clamp(sizes_.step_min, sizes_.step_max)
                               .to(at::kFloat);  // [rows, heads]
  const at::Tensor read = Recur({.query = by_key_head(inner + keys),
                                 .key = by_key_head(inner),
                                 .value = value * steps.unsqueeze(2),
                                 .log_decay = -decay_rate_ * steps,
                                 .beta = {}},
                                pass.states->memory(layer_), pass.groups);
  const at::Tensor summed = (read + skip_ * value).flatten(1);
  return out_(GatedNorm(summed, parts[0]).to(x.scalar_type()));
}

}  // namespace modeld
