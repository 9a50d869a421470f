#include "server/engine/models/kv_pool.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {

KvPool::KvPool(const Options& options) : options_(options) {
  for (size_t i = 0; i < options.layers.size(); ++i) {
    const KvShape& layer = options.layers[i];
    const at::Device device =
        options.layer_devices.empty() ? options.device : options.layer_devices[i];
    const at::TensorOptions tensor = at::TensorOptions().dtype(options.dtype).device(device);
    // Not zeroed: on the CPU a page becomes real when a token is first written to it.
    keys_.push_back(
        at::empty({options.blocks, layer.heads, layer.key_dim, kKvBlockTokens}, tensor));
    values_.push_back(at::empty(
        {options.blocks, layer.heads, kKvBlockTokens, PaddedHeadDim(layer.value_dim)}, tensor));
  }
  holders_.resize(options.blocks);
  free_.reserve(options.blocks);
  for (int64_t block = options.blocks; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

bool KvPool::Take(int64_t count, std::vector<int32_t>& blocks) {
  if (count > blocks_free()) return false;
  for (; count > 0; --count) {
    blocks.push_back(free_.back());
    holders_[free_.back()] = 1;
    free_.pop_back();
  }
  return true;
}

void KvPool::Share(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) ++holders_[block];
}

void KvPool::GiveBack(const std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (--holders_[*block] == 0) free_.push_back(*block);
  }
}

void KvPool::Copy(int32_t from, int32_t to) {
  for (const auto* layers : {&keys_, &values_}) {
    for (const at::Tensor& layer : *layers) layer.select(0, to).copy_(layer.select(0, from));
  }
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

std::unique_ptr<SequenceState> PagedState::Fork() const {
  // A model that may compute a sequence again writes to all of its blocks.
  const int64_t shared = token_ids_.empty() ? length_ / kKvBlockTokens : 0;
  const int64_t held = (length_ + kKvBlockTokens - 1) / kKvBlockTokens;
  StateSlot slot;
  if (slot_) {
    slot = StateSlot(states_);
    if (!slot) return nullptr;
  }
  std::vector<int32_t> own;
  if (!pool_->Take(held - shared, own)) return nullptr;
  if (slot) states_->Copy(*slot_, *slot);
  for (int64_t i = shared; i < held; ++i) pool_->Copy(blocks_[i], own[i - shared]);
  auto fork = std::make_unique<PagedState>(pool_, states_);
  fork->blocks_.assign(blocks_.begin(), blocks_.begin() + shared);
  pool_->Share(fork->blocks_);
  fork->blocks_.insert(fork->blocks_.end(), own.begin(), own.end());
  fork->slot_ = std::move(slot);
  fork->length_ = length_;
  fork->token_ids_ = token_ids_;
  return fork;
}

}  // namespace modeld
