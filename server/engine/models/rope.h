// Rotary position embedding, the "rotate half" form of the Llama family.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "server/engine/weights/config.h"

namespace modeld {

// Angles of all positions for one configuration.
class Rope {
 public:
  Rope(const RopeConfig& config, int64_t head_dim, at::Device device);

  // Cosines and sines of `positions`, both [positions, 1, head_dim]: computed in float32, then
  // rounded to `dtype`, which is where the reference rounds.
  std::pair<at::Tensor, at::Tensor> CosSin(const std::vector<int64_t>& positions,
                                           at::ScalarType dtype) const;

 private:
  at::Tensor inverse_frequencies_;  // float32 [head_dim / 2]
};

// x: [rows, heads, head_dim].
at::Tensor ApplyRope(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace modeld
