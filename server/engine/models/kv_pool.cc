#include "server/engine/models/kv_pool.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <utility>

#include "server/base/status.h"
#include "server/engine/kernels/paged_attention.h"

namespace modeld {

KvPool::KvPool(const Options& options)
    : options_(options),
      holders_(options.blocks),
      index_(options.blocks),
      idle_places_(options.blocks) {
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
  free_.reserve(options.blocks);
  for (int64_t block = options.blocks; block-- > 0;) free_.push_back(static_cast<int32_t>(block));
}

bool KvPool::Take(int64_t count, std::vector<int32_t>& blocks) {
  if (count > blocks_free()) return false;
  for (; count > 0; --count) {
    if (free_.empty()) {
      const int32_t longest_idle = idle_.front();
      idle_.pop_front();
      index_.Erase(longest_idle);
      free_.push_back(longest_idle);
    }
    blocks.push_back(free_.back());
    holders_[free_.back()] = 1;
    free_.pop_back();
  }
  return true;
}

void KvPool::Share(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    if (holders_[block]++ == 0) idle_.erase(idle_places_[block]);
  }
}

// Backwards, so that no block is there without those that it follows.
void KvPool::GiveBack(const std::vector<int32_t>& blocks) {
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) Release(*block);
}

void KvPool::Release(int32_t block) {
  if (--holders_[block] > 0) return;
  if (index_.IdOf(block) == 0) {
    free_.push_back(block);
  } else {
    idle_places_[block] = idle_.insert(idle_.end(), block);
  }
}

int32_t KvPool::Keep(int32_t block, BlockKey key) {
  const int32_t other = index_.Find(key);
  if (other < 0) {
    index_.Insert(block, std::move(key));
    return block;
  }
  Share({&other, 1});
  Release(block);
  return other;
}

void KvPool::Copy(int32_t from, int32_t to) {
  for (const auto* layers : {&keys_, &values_}) {
    for (const at::Tensor& layer : *layers) layer.select(0, to).copy_(layer.select(0, from));
  }
}

// What is computed of `token_ids`, which fill a block behind the blocks `before`.
BlockKey PagedState::KeyOf(std::span<const int64_t> token_ids, std::span<const int32_t> before,
                           bool is_long) const {
  BlockKey key;
  if (before.empty()) {
    key.parent = is_long ? BlockKey::kFirstLong : BlockKey::kFirst;
    key.salt = *salt_;
  } else {
    key.parent = memory_.kv->IdOf(before.back());
  }
  for (int64_t i = 0; i < kKvBlockTokens; ++i) {
    key.token_ids[i] = static_cast<int32_t>(token_ids[i]);
  }
  return key;
}

void PagedState::Resume(std::span<const int64_t> token_ids, std::string salt) {
  salt_ = std::move(salt);
  if (token_ids.empty()) return;
  const bool is_long = IsLong(std::ssize(token_ids));
  const int64_t blocks_max = (std::ssize(token_ids) - 1) / kKvBlockTokens;
  std::vector<int32_t> found;
  while (std::ssize(found) < blocks_max) {
    const auto tokens = token_ids.subspan(found.size() * kKvBlockTokens, kKvBlockTokens);
    const int32_t block = memory_.kv->Find(KeyOf(tokens, found, is_long));
    if (block < 0) break;
    found.push_back(block);
  }
  // A short beginning goes on with the keys of a short sequence.
  if (is_long && !IsLong(std::ssize(found) * kKvBlockTokens)) return;
  if (memory_.states && !TakeSnapshot(found)) return;
  memory_.kv->Share(found);
  blocks_ = std::move(found);
  kept_blocks_ = std::ssize(blocks_);
  length_ = capacity();
  token_ids_.assign(token_ids.begin(), token_ids.begin() + length_);
}

// Cuts `blocks` behind the last one whose snapshot is kept, and copies that into the slot.
bool PagedState::TakeSnapshot(std::vector<int32_t>& blocks) {
  int64_t kept = -1;
  while (!blocks.empty() && kept < 0) {
    kept = memory_.states->FindKept(memory_.kv->IdOf(blocks.back()));
    if (kept < 0) blocks.pop_back();
  }
  if (kept < 0) return false;
  StateSlot slot(memory_.states);
  if (!slot) return false;
  // The slot may have been the snapshot's own, when there was no other to be had.
  if (*slot != kept) memory_.states->Copy(kept, *slot);
  slot_ = std::move(slot);
  snapshot_length_ = std::ssize(blocks) * kKvBlockTokens;
  return true;
}

int64_t PagedState::capacity() const {
  return static_cast<int64_t>(blocks_.size()) * kKvBlockTokens;
}

std::span<const int64_t> PagedState::Remember(const std::vector<int64_t>& token_ids) {
  token_ids_.insert(token_ids_.end(), token_ids.begin(), token_ids.end());
  return token_ids_;
}

void PagedState::Advance(int64_t tokens, int64_t step_length) {
  length_ += tokens;
  if (!salt_) return;
  for (; kept_blocks_ < length_ / kKvBlockTokens; ++kept_blocks_) {
    const auto ids = std::span(token_ids_).subspan(kept_blocks_ * kKvBlockTokens, kKvBlockTokens);
    BlockKey key = KeyOf(ids, std::span(blocks_).first(kept_blocks_), IsLong(step_length));
    blocks_[kept_blocks_] = memory_.kv->Keep(blocks_[kept_blocks_], std::move(key));
  }
}

void PagedState::Rewind() {
  for (const int32_t block : blocks_) {
    MODELD_CHECK(!memory_.kv->IsShared(block) && memory_.kv->IdOf(block) == 0,
                 "a block of others would be written to");
  }
  length_ = 0;
  kept_blocks_ = 0;
}

int64_t PagedState::SnapshotAt(int64_t tokens, bool ends_prompt) const {
  if (!slot_ || !salt_ || kept_blocks_ == kNoneKept) return 0;
  // Of a prompt the last token is always read again.
  const int64_t end = length_ + tokens - (ends_prompt && tokens > 1 ? 1 : 0);
  const int64_t at = end / kKvBlockTokens * kKvBlockTokens;
  if (at <= length_) return 0;
  // Within a prompt at lengths that double, so that a long one does not drive out all others.
  return ends_prompt || at >= 2 * snapshot_length_ ? at : 0;
}

void PagedState::KeepSnapshot(bool replaces) {
  MODELD_CHECK(length_ > 0 && length_ == kept_blocks_ * kKvBlockTokens, "a snapshot in a block");
  const int64_t id = memory_.kv->IdOf(blocks_[kept_blocks_ - 1]);
  if (replaces) memory_.states->ForgetKept(std::exchange(replaced_snapshot_, id));
  memory_.states->Keep(id, *slot_);
  snapshot_length_ = length_;
}

bool PagedState::Reserve(int64_t length) {
  StateSlot slot;
  if (memory_.states && !slot_) {
    slot = StateSlot(memory_.states);
    if (!slot) return false;
  }
  const bool outgrows = length_ > 0 && !IsLong(length_) && IsLong(length);
  const int64_t shared =
      outgrows ? std::ranges::count_if(blocks_,
                                       [&](int32_t block) { return memory_.kv->IsShared(block); })
               : 0;
  const int64_t missing = std::max<int64_t>(length - capacity(), 0);
  std::vector<int32_t> fresh;
  if (!memory_.kv->Take((missing + kKvBlockTokens - 1) / kKvBlockTokens + shared, fresh)) {
    return false;
  }
  if (outgrows) Unshare(fresh);
  blocks_.insert(blocks_.end(), fresh.begin(), fresh.end());
  if (slot) slot_ = std::move(slot);
  return true;
}

// Puts copies from `fresh` in the place of what others hold too, and keeps nothing.
void PagedState::Unshare(std::vector<int32_t>& fresh) {
  kept_blocks_ = kNoneKept;
  for (int32_t& block : blocks_) {
    if (!memory_.kv->IsShared(block)) {
      memory_.kv->Forget(block);
      continue;
    }
    memory_.kv->Copy(block, fresh.back());
    memory_.kv->GiveBack({std::exchange(block, fresh.back())});
    fresh.pop_back();
  }
}

std::unique_ptr<SequenceState> PagedState::Fork() const {
  const int64_t shared = length_ / kKvBlockTokens;
  const int64_t held = (length_ + kKvBlockTokens - 1) / kKvBlockTokens;
  StateSlot slot;
  if (slot_) {
    slot = StateSlot(memory_.states);
    if (!slot) return nullptr;
  }
  std::vector<int32_t> own;
  if (!memory_.kv->Take(held - shared, own)) return nullptr;
  if (slot) memory_.states->Copy(*slot_, *slot);
  for (int64_t i = shared; i < held; ++i) memory_.kv->Copy(blocks_[i], own[i - shared]);
  auto fork = std::make_unique<PagedState>(memory_);
  fork->blocks_.assign(blocks_.begin(), blocks_.begin() + shared);
  memory_.kv->Share(fork->blocks_);
  fork->blocks_.insert(fork->blocks_.end(), own.begin(), own.end());
  fork->slot_ = std::move(slot);
  fork->length_ = length_;
  fork->token_ids_ = token_ids_;
  fork->salt_ = salt_;
  fork->kept_blocks_ = kept_blocks_;
  fork->snapshot_length_ = snapshot_length_;
  return fork;
}

}  // namespace modeld
