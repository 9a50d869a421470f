// Rotary position embedding.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "server/engine/models/pass.h"
#include "server/engine/weights/config.h"

namespace modeld {

// Angles of all positions for one configuration.
class Rope {
 public:
  Rope(const RopeConfig& config, at::Device device);

  // Of `positions`, each in a sequence that is `lengths` tokens long with this step: computed in
  // float32, then rounded to `dtype`, which is where the reference rounds.
  Turns At(const std::vector<int64_t>& positions, const std::vector<int64_t>& lengths,
           at::ScalarType dtype) const;

 private:
  const int64_t original_context_;
  const double attention_factor_;
  at::Tensor inverse_frequencies_;  // float32 [1 or 2, rotary_dim / 2]: of short and long sequences
};

// Turns the first elements of each head, as many as `turns` has. x: [rows, heads, head_dim].
// `interleaved`: pairs are neighbours; else the halves of the turned part.
at::Tensor ApplyRope(const at::Tensor& x, const Turns& turns, bool interleaved);

}  // namespace modeld
