// The memory of what layers other than attention keep of a sequence: of one size whatever the
// sequence's length, in slots that are allocated once and lent. Slots that nobody holds may keep
// snapshots of states for sequences that begin alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "server/engine/weights/config.h"

namespace modeld {

// Belongs to the step thread. Throws c10::Error from its constructor when memory does not last.
class StatePool {
 public:
  // For a model with layers of that kind. `devices`: of each layer.
  StatePool(const ArchitectureConfig& config, int64_t slots,
            const std::vector<at::Device>& devices);
  // All on one device.
  StatePool(const ArchitectureConfig& config, int64_t slots, at::Device device)
      : StatePool(config, slots, std::vector<at::Device>(config.num_layers, device)) {}

  // Of a layer with a convolution: the last rows that went into it. float32 [slots, conv_tokens -
  // 1, conv_channels].
  const at::Tensor& window(int64_t layer) const { return windows_[layer]; }
  // Of a layer with a recurrence. float32 [slots, heads, key_dim, value_dim].
  const at::Tensor& memory(int64_t layer) const { return memories_[layer]; }
  // Nobody holds them, whether they have snapshots or not.
  int64_t slots_free() const { return static_cast<int64_t>(free_.size() + kept_.size()); }

  // A slot, or -1 when all are lent. Where no other is left, it is that of the snapshot that was
  // not used for the longest time, whose contents are still there.
  int64_t Take();
  void GiveBack(int64_t slot) { free_.push_back(slot); }
  // All that a sequence keeps in a slot.
  void Copy(int64_t from, int64_t to);

  // Snapshots have the number of the block at whose end they were taken (KvPool::IdOf()).
  // Copies what `slot` holds, if any slot is not lent; the longest unused snapshot makes room.
  void Keep(int64_t id, int64_t slot);
  // The slot of a snapshot, which counts as a use of it; -1 when it is not there.
  int64_t FindKept(int64_t id);
  void ForgetKept(int64_t id);

 private:
  struct Snapshot {
    int64_t id;
    int64_t slot;
  };

  std::vector<at::Tensor> windows_;  // of each layer, undefined for attention
  std::vector<at::Tensor> memories_;
  std::vector<int64_t> free_;   // the last one is lent next
  std::vector<Snapshot> kept_;  // the longest unused first; a few dozen at most
};

// A slot of a pool, or none. What it held is not cleared: a sequence without tokens takes zeros.
class StateSlot {
 public:
  StateSlot() = default;
  // None when all of `pool` is lent.
  explicit StateSlot(std::shared_ptr<StatePool> pool)
      : pool_(std::move(pool)), slot_(pool_->Take()) {}
  ~StateSlot() {
    if (slot_ >= 0) pool_->GiveBack(slot_);
  }
  StateSlot(StateSlot&& other) noexcept
      : pool_(std::move(other.pool_)), slot_(std::exchange(other.slot_, -1)) {}
  StateSlot& operator=(StateSlot&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(slot_, other.slot_);
    return *this;
  }

  explicit operator bool() const { return slot_ >= 0; }
  int64_t operator*() const { return slot_; }

 private:
  std::shared_ptr<StatePool> pool_;
  int64_t slot_ = -1;
};

}  // namespace modeld
