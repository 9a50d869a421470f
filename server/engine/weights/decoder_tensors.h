// The tensors of a decoder by its options.
#pragma once

#include <vector>

#include "server/engine/weights/architecture.h"

namespace modeld {

// `name` is empty; roles are Llama's published names ("model.layers.0.self_attn.q_proj.weight"),
// but norms of a layer are told by their place: attention_norm, attention_after_norm, mlp_norm,
// mlp_after_norm.
std::vector<TensorShape> DecoderTensors(const ArchitectureConfig& config);

}  // namespace modeld
