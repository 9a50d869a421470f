// What the families of pre-norm decoders (Llama and its descendants) share: keys and tensors.
#pragma once

#include <cstdint>
#include <vector>

#include "server/engine/weights/architecture.h"

namespace modeld {

// What a family takes for keys that its config.json leaves out.
struct DecoderDefaults {
  int64_t num_kv_heads = 0;  // 0: as many as there are heads
  int64_t head_dim = 0;      // 0: hidden_size / num_attention_heads
  int64_t max_context = 2048;
};

// Sizes, norm, rope, tied embeddings; not the biases.
void ReadDecoder(ConfigReader& reader, const DecoderDefaults& defaults, ArchitectureConfig& config);

// rope_theta and rope_scaling, or rope_parameters.
void ReadRope(ConfigReader& reader, RopeConfig& rope);

// UNSUPPORTED_ARCHITECTURE when layers attend to a window shorter than the context.
void RefuseSlidingWindow(ConfigReader& reader, const ArchitectureConfig& config);

// Names as published, "model.layers.0.self_attn.q_proj.weight", by the flags of `config`.
std::vector<TensorShape> DecoderTensors(const ArchitectureConfig& config);

}  // namespace modeld
