#include "server/engine/weights/work_memory.h"

#include <algorithm>

#include "server/engine/weights/architecture.h"

namespace modeld {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);

// What is convolved and its copies; queries, keys and values of the recurrence, and what a row of a
// chunk is to the others.
int64_t RecurrentRow(const RecurrentConfig& recurrent) {
  const int64_t of_head = 2 * recurrent.key_dim + 3 * recurrent.value_dim + 4 * kChunkTokens;
  return 6 * recurrent.conv_channels + recurrent.heads * of_head;
}

// Gate, up and their product; then scores, what is added to them, and their softmax.
int64_t VectorsPassBytes(const ArchitectureConfig& config) {
  const int64_t inner = std::max({config.intermediate_size, config.moe.intermediate_size,
                                  config.moe.shared_intermediate_size});
  return (kPassTokens * 3 * inner + 4 * kScoresMax) * kFloatBytes;
}

}  // namespace

// In float32: the residual stream, the norm's copies, queries, keys and values with their turned
// copies, gate, up and their product.
int64_t PassBytes(const ArchitectureConfig& config) {
  if (config.makes_vectors) return VectorsPassBytes(config);
  // Queries of latent attention are as long as what is cached.
  const int64_t latent = config.latent.kv_rank + config.latent.rope_dim;
  const int64_t queries = config.attention_gate ? 2 * config.num_heads : config.num_heads;
  int64_t heads = config.num_heads * latent;
  int64_t inner = std::max(config.moe.intermediate_size, config.moe.shared_intermediate_size);
  for (const LayerConfig& layer : config.layers) {
    if (latent == 0) {
      heads = std::max(heads, (queries + 2 * layer.num_kv_heads) * layer.head_dim);
    }
    inner = std::max(inner, config.intermediate_size * (layer.wide_mlp ? 2 : 1));
  }
  const int64_t row = 6 * config.hidden_size + 3 * heads + 3 * inner +
                      RecurrentRow(config.recurrent) +
                      3 * config.num_layers * config.layer_input_size;
  return kPassTokens * row * kFloatBytes;
}

int64_t LogitsBytes(const ArchitectureConfig& config) {
  return config.makes_vectors ? 0 : 2 * kHeadRows * config.vocab_size * kFloatBytes;
}

int64_t StateCopiesBytes(const ArchitectureConfig& config) {
  return StateBytesPerSequence(config) > 0 ? 3 * config.recurrent.state_elements() * kFloatBytes
                                           : 0;
}

}  // namespace modeld
