#include "server/engine/models/state_pool.h"

#include <ATen/ATen.h>

namespace modeld {

StatePool::StatePool(const ArchitectureConfig& config, int64_t slots,
                     const std::vector<at::Device>& devices)
    : windows_(config.num_layers), memories_(config.num_layers) {
  const RecurrentConfig& sizes = config.recurrent;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.layers[layer].mixer == Mixer::kAttention) continue;
    const at::TensorOptions tensor = at::TensorOptions().dtype(at::kFloat).device(devices[layer]);
    windows_[layer] = at::empty({slots, sizes.conv_tokens - 1, sizes.conv_channels}, tensor);
    memories_[layer] = at::empty({slots, sizes.heads, sizes.key_dim, sizes.value_dim}, tensor);
  }
  for (int64_t slot = slots; slot-- > 0;) free_.push_back(slot);
}

int64_t StatePool::Take() {
  if (free_.empty()) return -1;
  const int64_t slot = free_.back();
  free_.pop_back();
  return slot;
}

void StatePool::Copy(int64_t from, int64_t to) {
  for (const auto* layers : {&windows_, &memories_}) {
    for (const at::Tensor& layer : *layers) {
      if (layer.defined()) layer.select(0, to).copy_(layer.select(0, from));
    }
  }
}

}  // namespace modeld
