// The memory of keys and values: blocks of 16 tokens, allocated once, lent to sequences. Sequences
// that begin alike share their full blocks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "server/engine/models/model.h"
#include "server/engine/models/state_pool.h"
#include "server/engine/weights/architecture.h"

namespace modeld {

// Belongs to the step thread. Throws c10::Error from its constructor when memory does not last.
class KvPool {
 public:
  struct Options {
    std::vector<KvShape> layers;
    int64_t blocks;
    at::ScalarType dtype;
    at::Device device;
    std::vector<at::Device> layer_devices = {};  // of each layer; empty: all on `device`
  };
  explicit KvPool(const Options& options);

  const Options& options() const { return options_; }
  const at::Tensor& keys(int64_t layer) const {
    return keys_[layer];
  }  // [blocks, heads, key_dim, 16]
  const at::Tensor& values(int64_t layer) const {
    return values_[layer];
  }  // [blocks, heads, 16, padded value_dim]
  int64_t blocks_free() const { return static_cast<int64_t>(free_.size()); }

  // Appends `count` blocks to `blocks`, or changes nothing and says false.
  bool Take(int64_t count, std::vector<int32_t>& blocks);
  // Each call needs one more GiveBack() before the blocks are free.
  void Share(std::span<const int32_t> blocks);
  void GiveBack(const std::vector<int32_t>& blocks);
  // Keys and values of all layers.
  void Copy(int32_t from, int32_t to);

 private:
  const Options options_;
  std::vector<at::Tensor> keys_;
  std::vector<at::Tensor> values_;
  std::vector<int32_t> free_;     // the last one is lent next
  std::vector<int32_t> holders_;  // of each block
};

// What one sequence keeps: blocks, and a slot where the model has layers other than attention.
class PagedState final : public SequenceState {
 public:
  // Without `states` it never has a slot.
  PagedState(std::shared_ptr<KvPool> pool, std::shared_ptr<StatePool> states)
      : pool_(std::move(pool)), states_(std::move(states)) {}
  ~PagedState() override { pool_->GiveBack(blocks_); }
  PagedState(const PagedState&) = delete;
  PagedState& operator=(const PagedState&) = delete;

  int64_t length() const override { return length_; }
  bool Reserve(int64_t length) override;
  // Copies the last block when it is not full, and the slot.
  std::unique_ptr<SequenceState> Fork() const override;

  const std::vector<int32_t>& blocks() const { return blocks_; }
  int64_t slot() const { return *slot_; }  // -1: none
  int64_t capacity() const;                // tokens
  void Advance(int64_t tokens) { length_ += tokens; }

  // For models that may have to compute a sequence again: adds to the tokens that were given since
  // the beginning, and returns all of them.
  std::span<const int64_t> Remember(const std::vector<int64_t>& token_ids);
  // Holds no token, but the memory.
  void Rewind() { length_ = 0; }

 private:
  const std::shared_ptr<KvPool> pool_;
  const std::shared_ptr<StatePool> states_;
  std::vector<int32_t> blocks_;
  StateSlot slot_;
  int64_t length_ = 0;
  std::vector<int64_t> token_ids_;  // Remember()
};

}  // namespace modeld
