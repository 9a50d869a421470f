#include "server/engine/models/short_conv.h"

#include <ATen/ATen.h>

namespace modeld {

ShortConv::ShortConv(const TensorSource& source, const std::string& prefix,
                     const ArchitectureConfig& config, int64_t layer)
    : layer_(layer),
      in_(source, prefix + "in_proj", config.recurrent.projection_bias),
      conv_(source, prefix + "conv", config.recurrent),
      out_(source, prefix + "out_proj", config.recurrent.projection_bias) {}

at::Tensor ShortConv::operator()(const at::Tensor& x, const Pass& pass) const {
  const std::vector<at::Tensor> parts = in_(x).chunk(3, 1);  // each [rows, hidden]
  const at::Tensor mixed = conv_(parts[0] * parts[2], pass.states->window(layer_), pass.groups);
  return out_(parts[1] * mixed);
}

}  // namespace modeld
