// Layers that keep of all earlier tokens something of fixed size, in the place of attention.
#pragma once

#include <cstdint>

namespace modeld {

// What lets the tokens of a sequence see each other in a layer.
enum class Mixer {
  kAttention,
  kShortConv,  // a gated convolution over a few tokens
  kDeltaNet,   // a convolution and the gated delta rule
  kMamba,      // a convolution and Mamba 2's recurrence
};

// Of all such layers of a model. What they keep is float32.
struct RecurrentConfig {
  int64_t conv_tokens = 1;  // that a convolution sees: a token and those before it
  int64_t conv_channels = 0;
  bool conv_bias = false;
  bool projection_bias = false;

  // kDeltaNet, kMamba: the memory is a matrix [key_dim, value_dim] for each head.
  int64_t heads = 0;
  int64_t key_heads = 0;  // divides heads; as many heads share a query and a key
  int64_t key_dim = 0;
  int64_t value_dim = 0;
  bool by_key_head = false;  // kDeltaNet: projections have what belongs to a key head together
  double step_min = 0;       // kMamba
  double step_max = 0;       // kMamba

  // Numbers that a layer keeps of a sequence.
  int64_t state_elements() const {
    return (conv_tokens - 1) * conv_channels + heads * key_dim * value_dim;
  }
};

}  // namespace modeld
