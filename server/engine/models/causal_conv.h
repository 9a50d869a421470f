// A convolution over the last few tokens of each sequence, each channel for itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>

#include "server/engine/models/row_group.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/recurrent_config.h"

namespace modeld {

class CausalConv {
 public:
  // "<name>.weight" and, with conv_bias, "<name>.bias".
  CausalConv(const TensorSource& source, const std::string& name, const RecurrentConfig& config);

  // x: [rows, channels], and so is the result, summed in float32 and rounded once. `windows` is the
  // layer's StatePool::window(), from which sequences go on and which it leaves as they end.
  at::Tensor operator()(const at::Tensor& x, const at::Tensor& windows,
                        std::span<const RowGroup> groups) const;

 private:
  at::Tensor weight_;  // float32 [tokens, channels]
  at::Tensor bias_;    // float32 [channels], may be undefined
};

}  // namespace modeld
