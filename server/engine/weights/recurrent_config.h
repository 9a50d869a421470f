// Layers that keep of all earlier tokens something of fixed size, in the place of attention.
#pragma once

#include <cstdint>

namespace modeld {

// What lets the tokens of a sequence see each other in a layer.
enum class Mixer {
  kAttention,
  kShortConv,  // a gated convolution over a few tokens
};

// Of all such layers of a model. What they keep is float32.
struct RecurrentConfig {
  int64_t conv_tokens = 0;  // that a convolution sees: a token and those before it
  int64_t conv_channels = 0;
  bool conv_bias = false;
  bool projection_bias = false;

  // Numbers that a layer keeps of a sequence.
  int64_t state_elements() const { return (conv_tokens - 1) * conv_channels; }
};

}  // namespace modeld
