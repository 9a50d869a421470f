// The frame of every model that makes vectors: embedding, layers, last norm, over whole texts at
// once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/engine/models/blocks.h"
#include "server/engine/models/layer_stack.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/rope.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// Immutable.
class Encoder {
 public:
  // `max_context`: tokens of the longest text. `config` makes vectors.
  // The tensors of `source` are where `devices` says.
  Encoder(const ArchitectureConfig& config, int64_t max_context, const TensorSource& source,
          const std::shared_ptr<const ModelDevices>& devices);

  // What the model makes of each token, [tokens of all texts, hidden] in its dtype on the device
  // of the last norm. Texts of the same length are best neighbours. Throws c10::Error for a token
  // id outside the vocabulary, or a text that is empty or too long.
  at::Tensor Forward(const std::vector<std::span<const int64_t>>& texts) const;

  int64_t hidden_size() const { return config_.hidden_size; }
  int64_t vocab_size() const { return config_.vocab_size; }

 private:
  void Check(std::span<const int64_t> text) const;
  // Rows of the learned positions.
  std::vector<int64_t> PositionRows(const std::vector<std::span<const int64_t>>& texts) const;
  at::Tensor Embed(const std::vector<std::span<const int64_t>>& texts) const;

  const ArchitectureConfig config_;
  const int64_t max_context_;
  const at::Tensor embedding_;     // [vocab, hidden]
  at::Tensor position_embedding_;  // [rows, hidden], may be undefined
  at::Tensor type_embedding_;      // [hidden], of the first kind of tokens, may be undefined
  at::Tensor distance_logits_;     // float32 [heads, 2 * max context - 1], may be undefined
  Norm embedding_norm_;
  std::vector<Rope> ropes_;
  LayerStack layers_;
  Norm final_norm_;
};

}  // namespace modeld
