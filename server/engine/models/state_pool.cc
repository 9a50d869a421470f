#include "server/engine/models/state_pool.h"

#include <ATen/ATen.h>

#include <algorithm>

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
  if (free_.empty() && !kept_.empty()) {
    const int64_t slot = kept_.front().slot;
    kept_.erase(kept_.begin());
    return slot;
  }
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

void StatePool::Keep(int64_t id, int64_t slot) {
  if (FindKept(id) >= 0) return;
  const int64_t snapshot = Take();
  if (snapshot < 0) return;
  Copy(slot, snapshot);
  kept_.push_back({.id = id, .slot = snapshot});
}

int64_t StatePool::FindKept(int64_t id) {
  const auto found = std::ranges::find(kept_, id, &Snapshot::id);
  if (found == kept_.end()) return -1;
  std::rotate(found, found + 1, kept_.end());
  return kept_.back().slot;
}

void StatePool::ForgetKept(int64_t id) {
  const auto found = std::ranges::find(kept_, id, &Snapshot::id);
  if (found == kept_.end()) return;
  free_.push_back(found->slot);
  kept_.erase(found);
}

}  // namespace modeld
