#include "server/engine/models/block_index.h"

#include <utility>

#include "absl/hash/hash.h"
#include "server/base/status.h"

namespace modeld {

size_t BlockIndex::HashOf(const BlockKey& key) {
  return absl::HashOf(key.parent, key.salt, key.token_ids);
}

BlockIndex::BlockIndex(int64_t blocks, Hash hash) : blocks_(/*n=*/0, hash), entries_(blocks) {}

int32_t BlockIndex::Find(const BlockKey& key) const {
  const auto found = blocks_.find(key);
  return found == blocks_.end() ? -1 : found->second;
}

void BlockIndex::Insert(int32_t block, BlockKey key) {
  MODELD_CHECK(IdOf(block) == 0, "a block with two keys");
  const auto [place, inserted] = blocks_.emplace(std::move(key), block);
  MODELD_CHECK(inserted, "a key with two blocks");
  entries_[block] = {.id = next_id_++, .key = &place->first};
}

void BlockIndex::Erase(int32_t block) {
  if (IdOf(block) == 0) return;
  const Entry entry = std::exchange(entries_[block], {});
  blocks_.erase(blocks_.find(*entry.key));
}

}  // namespace modeld
