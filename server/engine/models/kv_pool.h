// The memory of keys and values: blocks of 16 tokens, allocated once, lent to sequences. Sequences
// that begin alike share their full blocks, also with those that have ended.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "server/engine/models/block_index.h"
#include "server/engine/models/model.h"
#include "server/engine/models/state_pool.h"
#include "server/engine/weights/architecture.h"

namespace modeld {

// A kept block has a key, by which others find it. It stays when nobody holds it any more, until
// its memory is needed; those that were not held for the longest time go first.
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
  // Nobody holds them, whether they are kept or not.
  int64_t blocks_free() const { return static_cast<int64_t>(free_.size() + idle_.size()); }

  // Appends `count` blocks to `blocks`, or changes nothing and says false.
  bool Take(int64_t count, std::vector<int32_t>& blocks);
  // Each call needs one more GiveBack() before the blocks are free.
  void Share(std::span<const int32_t> blocks);
  // Of blocks in a row, kept ones that follow others go before these.
  void GiveBack(const std::vector<int32_t>& blocks);
  // Keys and values of all layers.
  void Copy(int32_t from, int32_t to);
  // Whether more than one holds it.
  bool IsShared(int32_t block) const { return holders_[block] > 1; }

  // The kept block with `key`, or -1; Share() it to hold it.
  int32_t Find(const BlockKey& key) const { return index_.Find(key); }
  // As in BlockIndex.
  int64_t IdOf(int32_t block) const { return index_.IdOf(block); }
  // Keeps `block`, which the caller holds and does not write to any more. Where another block has
  // that key, the caller holds that one in its place from now on; returns it then, else `block`.
  int32_t Keep(int32_t block, BlockKey key);
  // Does not keep a block that only the caller holds any longer.
  void Forget(int32_t block) { index_.Erase(block); }

 private:
  void Release(int32_t block);

  const Options options_;
  std::vector<at::Tensor> keys_;
  std::vector<at::Tensor> values_;
  std::vector<int32_t> free_;     // not kept; the last one is lent next
  std::vector<int32_t> holders_;  // of each block
  BlockIndex index_;
  std::list<int32_t> idle_;  // kept blocks that nobody holds, those of the longest time first
  std::vector<std::list<int32_t>::iterator> idle_places_;  // of each block that is there
};

// Where sequences of a model have what they keep.
struct SequenceMemory {
  std::shared_ptr<KvPool> kv;
  std::shared_ptr<StatePool> states;  // null: a sequence never has a slot
  // Keys of all tokens change when a sequence gets longer than this; 0: they do not.
  int64_t long_context = 0;
};

// What one sequence keeps: blocks, and a slot where the model has layers other than attention.
class PagedState final : public SequenceState {
 public:
  // Nothing of it is kept for others before Resume().
  explicit PagedState(SequenceMemory memory) : memory_(std::move(memory)) {}
  ~PagedState() override { memory_.kv->GiveBack(blocks_); }
  PagedState(const PagedState&) = delete;
  PagedState& operator=(const PagedState&) = delete;

  // Holds the longest beginning of `token_ids` that is kept under `salt`, without the last token at
  // least, and keeps under it what is computed from now on. Once, before anything else.
  void Resume(std::span<const int64_t> token_ids, std::string salt);

  int64_t length() const override { return length_; }
  // Has its blocks for itself when they will be computed again.
  bool Reserve(int64_t length) override;
  // Copies the last block when it is not full, and the slot.
  std::unique_ptr<SequenceState> Fork() const override;

  const std::vector<int32_t>& blocks() const { return blocks_; }
  int64_t slot() const { return *slot_; }  // -1: none
  int64_t capacity() const;                // tokens

  // Adds to the tokens that were given since the beginning, and returns all of them.
  std::span<const int64_t> Remember(const std::vector<int64_t>& token_ids);
  // `tokens` more are computed, in a step after which there are `step_length`.
  void Advance(int64_t tokens, int64_t step_length);
  // Holds no token, but the memory. Reserve() has said that this would come.
  void Rewind();

  // Where a step that adds `tokens` shall be interrupted to KeepSnapshot(), as a number of tokens
  // of the sequence; 0: nowhere. `ends_prompt`: no more tokens follow that are known now.
  int64_t SnapshotAt(int64_t tokens, bool ends_prompt) const;
  // Keeps what the slot holds for others that begin alike. The length is that of whole blocks.
  // `replaces`: in place of the one before.
  void KeepSnapshot(bool replaces);

 private:
  static constexpr int64_t kNoneKept = std::numeric_limits<int64_t>::max();

  BlockKey KeyOf(std::span<const int64_t> token_ids, std::span<const int32_t> before,
                 bool is_long) const;
  bool IsLong(int64_t length) const {
    return memory_.long_context > 0 && length > memory_.long_context;
  }
  bool TakeSnapshot(std::vector<int32_t>& blocks);
  void Unshare(std::vector<int32_t>& fresh);

  const SequenceMemory memory_;
  std::vector<int32_t> blocks_;
  StateSlot slot_;
  int64_t length_ = 0;
  std::vector<int64_t> token_ids_;   // Remember()
  std::optional<std::string> salt_;  // none: nothing is kept
  int64_t kept_blocks_ = 0;          // all before this one have keys; kNoneKept until Rewind()
  int64_t snapshot_length_ = 0;      // of the last snapshot
  int64_t replaced_snapshot_ = 0;    // by the next one that replaces; 0: none
};

}  // namespace modeld
