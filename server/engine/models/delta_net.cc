#include "server/engine/models/delta_net.h"

#include <ATen/ATen.h>

#include <cmath>

#include "server/engine/models/recurrence.h"

namespace modeld {
namespace {

constexpr double kUnitEps = 1e-6;

// Each head's vector made as long as 1.
at::Tensor Unit(const at::Tensor& x) {
  return x * at::rsqrt(x.square().sum({-1}, /*keepdim=*/true) + kUnitEps);
}

}  // namespace

DeltaNet::DeltaNet(const TensorSource& source, const std::string& prefix,
                   const ArchitectureConfig& config, int64_t layer)
    : sizes_(config.recurrent),
      activation_(config.activation),
      layer_(layer),
      conv_(source, prefix + "conv1d", sizes_),
      decay_rate_(source.Get(prefix + "A_log").to(at::kFloat).exp()),
      decay_bias_(source.Get(prefix + "dt_bias").to(at::kFloat)),
      norm_(source, prefix + "norm", NormKind::kRms, config.norm_eps),
      out_(source, prefix + "out_proj", false) {
  if (sizes_.by_key_head) {
    mixed_ = Linear(source, prefix + "in_proj_qkvz", false);
    beta_ = Linear(source, prefix + "in_proj_ba", false);
    return;
  }
  mixed_ = Linear(source, prefix + "in_proj_qkv", false);
  gate_ = Linear(source, prefix + "in_proj_z", false);
  beta_ = Linear(source, prefix + "in_proj_b", false);
  decay_ = Linear(source, prefix + "in_proj_a", false);
}

DeltaNet::Projected DeltaNet::Project(const at::Tensor& x) const {
  const std::vector<int64_t> by_head = {x.size(0), sizes_.heads, sizes_.value_dim};
  return {mixed_(x), gate_(x).view(by_head), beta_(x), decay_(x)};
}

// What belongs to a key head lies together: its query, its key, the values and gates of its heads.
DeltaNet::Projected DeltaNet::ProjectByKeyHead(const at::Tensor& x) const {
  const int64_t rows = x.size(0);
  const int64_t shared_by = sizes_.heads / sizes_.key_heads;
  const int64_t values = shared_by * sizes_.value_dim;
  const std::vector<at::Tensor> parts =
      mixed_(x)
          .view({rows, sizes_.key_heads, -1})
          .split_with_sizes({sizes_.key_dim, sizes_.key_dim, values, values}, 2);
  const at::Tensor both = beta_(x).view({rows, sizes_.key_heads, 2 * shared_by});
  return {.mixed = at::cat({parts[0].flatten(1), parts[1].flatten(1), parts[2].flatten(1)}, 1),
          .gate = parts[3].reshape({rows, sizes_.heads, sizes_.value_dim}),
          .beta = both.narrow(2, 0, shared_by).reshape({rows, sizes_.heads}),
          .decay = both.narrow(2, shared_by, shared_by).reshape({rows, sizes_.heads})};
}

at::Tensor DeltaNet::operator()(const at::Tensor& x, const Pass& pass) const {
  const int64_t rows = x.size(0);
  const int64_t keys = sizes_.key_heads * sizes_.key_dim;
  const Projected in = sizes_.by_key_head ? ProjectByKeyHead(x) : Project(x);
  const at::Tensor mixed =
      Activate(activation_, conv_(in.mixed, pass.states->window(layer_), pass.groups))
          .to(at::kFloat);
  const auto by_key_head = [&](int64_t begin) {
    return mixed.narrow(1, begin, keys).view({rows, sizes_.key_heads, sizes_.key_dim});
  };
  const at::Tensor read =
      Recur({.query = Unit(by_key_head(0)) / std::sqrt(static_cast<double>(sizes_.key_dim)),
             .key = Unit(by_key_head(keys)),
             .value = mixed.narrow(1, 2 * keys, sizes_.heads * sizes_.value_dim)
                          .view({rows, sizes_.heads, sizes_.value_dim}),
             .log_decay = -decay_rate_ * at::softplus(in.decay.to(at::kFloat) + decay_bias_),
             .beta = at::sigmoid(in.beta).to(at::kFloat)},
            pass.states->memory(layer_), pass.groups)
          .to(x.scalar_type());  // [rows, heads, value_dim]
  const at::Tensor gated = norm_(read) * at::silu(in.gate.to(at::kFloat));
  return out_(gated.to(x.scalar_type()).flatten(1));
}

}  // namespace modeld
