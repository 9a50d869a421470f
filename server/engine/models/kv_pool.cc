#include "server/engine/models/kv_pool.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {

KvPool::KvPool(const Options& options) : options_(options) {
  const at::TensorOptions tensor = at::TensorOptions().dtype(options.dtype).device(options.device);
  for (const KvShape& layer : options.layers) {
    // Not zeroed: on the CPU a page becomes real when a token is first written to it.
    keys_.push_back(
        at::empty({options.blocks, layer.heads, layer.key_dim, kKvBlockTokens}, tensor));
    values_.push_back(at::empty(
        {options.blocks, layer.heads, kKvBlockTokens, PaddedHeadDim(layer.value_dim)}, tensor));
  }
  free_.reserve(options.blocks);
  for (int64_t block = options.blocks; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

int64_t KvPool::BlockBytes(const ArchitectureConfig& config, int64_t element_bytes) {
  int64_t elements = 0;
  for (const KvShape& layer : KvShapes(config)) {
    elements += layer.heads * (layer.key_dim + PaddedHeadDim(layer.value_dim));
  }
  return elements * kKvBlockTokens * element_bytes;
}

bool KvPool::Take(int64_t count, std::vector<int32_t>& blocks) {
  if (count > blocks_free()) return false;
  for (; count > 0; --count) {
    blocks.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void KvPool::GiveBack(const std::vector<int32_t>& blocks) {
  free_.insert(free_.end(), blocks.rbegin(), blocks.rend());
}

int64_t PagedState::capacity() const {
  return static_cast<int64_t>(blocks_.size()) * kKvBlockTokens;
}

std::span<const int64_t> PagedState::Remember(const std::vector<int64_t>& token_ids) {
  token_ids_.insert(token_ids_.end(), token_ids.begin(), token_ids.end());
  return token_ids_;
}

bool PagedState::Reserve(int64_t length) {
  StateSlot slot;
  if (states_ && !slot_) {
    slot = StateSlot(states_);
    if (!slot) return false;
  }
  const int64_t missing = std::max<int64_t>(length - capacity(), 0);
  if (!pool_->Take((missing + kKvBlockTokens - 1) / kKvBlockTokens, blocks_)) return false;
  if (slot) slot_ = std::move(slot);
  return true;
}

}  // namespace modeld
