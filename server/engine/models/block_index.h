// Which block of keys and values stands for which tokens, so that a sequence finds what another one
// with the same beginning has computed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {

// The tokens of a block and all before them: what keys and values depend on.
struct BlockKey {
  static constexpr int64_t kFirst = 0;       // parents of a sequence's first block:
  static constexpr int64_t kFirstLong = -1;  // of one whose length changes its frequencies

  int64_t parent = kFirst;  // BlockIndex::IdOf() the block before
  std::string salt;         // of a first block; empty for the others
  std::array<int32_t, kKvBlockTokens> token_ids = {};

  bool operator==(const BlockKey&) const = default;
};

// Keys are compared whole: whatever they hash to, two beginnings are never taken for one another.
// Belongs to the step thread.
class BlockIndex {
 public:
  using Hash = size_t (*)(const BlockKey& key);
  // Another one in every process, so that nobody can choose tokens whose hashes collide.
  static size_t HashOf(const BlockKey& key);

  // For blocks numbered from 0 to `blocks` - 1.
  explicit BlockIndex(int64_t blocks, Hash hash = HashOf);

  // The block with `key`, or -1.
  int32_t Find(const BlockKey& key) const;
  // A number that no other content ever has; 0 for a block that is not in the index.
  int64_t IdOf(int32_t block) const { return entries_[block].id; }
  // Neither `block` nor `key` is in the index.
  void Insert(int32_t block, BlockKey key);
  // Does nothing for a block that is not in the index. Keys that name it as parent are not found
  // any more.
  void Erase(int32_t block);

 private:
  struct Entry {
    int64_t id = 0;
    const BlockKey* key = nullptr;  // in blocks_, which never moves them
  };
  std::unordered_map<BlockKey, int32_t, Hash> blocks_;
  std::vector<Entry> entries_;  // of each block
  int64_t next_id_ = 1;
};

}  // namespace modeld
