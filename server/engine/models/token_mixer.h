// What lets the tokens of a sequence see each other in a layer: attention of some kind, or what
// keeps a state of fixed size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>

#include "server/engine/models/pass.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

class TokenMixer {
 public:
  virtual ~TokenMixer() = default;
  // [rows, hidden], both ways.
  virtual at::Tensor operator()(const at::Tensor& x, const Pass& pass) const = 0;
};

// The one that `config` has in `layer`, whose roles begin with `prefix`.
std::unique_ptr<TokenMixer> MakeTokenMixer(const TensorSource& source, const std::string& prefix,
                                           const ArchitectureConfig& config, int64_t layer);

}  // namespace modeld
