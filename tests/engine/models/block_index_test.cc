#include "server/engine/models/block_index.h"

#include <gtest/gtest.h>

#include <string>

namespace modeld {
namespace {

BlockKey KeyOf(int64_t parent, const std::string& salt, int32_t first_token) {
  BlockKey key = {.parent = parent, .salt = salt};
  for (int32_t& id : key.token_ids) id = first_token++;
  return key;
}

// The worst hash there can be: all keys have the same one.
size_t SameForAll(const BlockKey& /*key*/) { return 7; }

TEST(BlockIndexTest, KeysWithOneHashAreToldApartByTheirTokensSaltAndParent) {
  BlockIndex index(10, SameForAll);
  index.Insert(3, KeyOf(BlockKey::kFirst, "", 100));
  index.Insert(4, KeyOf(BlockKey::kFirst, "salt", 100));
  index.Insert(5, KeyOf(BlockKey::kFirstLong, "", 100));
  index.Insert(6, KeyOf(index.IdOf(3), "", 100));
  index.Insert(7, KeyOf(index.IdOf(6), "", 100));
  BlockKey last_token_differs = KeyOf(BlockKey::kFirst, "", 100);
  last_token_differs.token_ids.back() += 1;

  EXPECT_EQ(index.Find(KeyOf(BlockKey::kFirst, "", 100)), 3);
  EXPECT_EQ(index.Find(KeyOf(BlockKey::kFirst, "salt", 100)), 4);
  EXPECT_EQ(index.Find(KeyOf(BlockKey::kFirstLong, "", 100)), 5);
  EXPECT_EQ(index.Find(KeyOf(index.IdOf(3), "", 100)), 6);
  EXPECT_EQ(index.Find(KeyOf(index.IdOf(6), "", 100)), 7);
  EXPECT_EQ(index.Find(last_token_differs), -1);
  EXPECT_EQ(index.Find(KeyOf(BlockKey::kFirst, "other", 100)), -1);
  EXPECT_EQ(index.Find(KeyOf(index.IdOf(4), "", 100)), -1);
}

TEST(BlockIndexTest, WhatFollowsAnErasedBlockIsNotFoundBehindItsSuccessor) {
  BlockIndex index(10);
  index.Insert(3, KeyOf(BlockKey::kFirst, "", 100));
  const int64_t first_id = index.IdOf(3);
  index.Insert(4, KeyOf(first_id, "", 200));

  index.Erase(3);
  EXPECT_EQ(index.IdOf(3), 0);
  EXPECT_EQ(index.Find(KeyOf(BlockKey::kFirst, "", 100)), -1);
  index.Insert(3, KeyOf(BlockKey::kFirst, "", 500));

  EXPECT_NE(index.IdOf(3), first_id);
  EXPECT_EQ(index.Find(KeyOf(index.IdOf(3), "", 200)), -1);
  EXPECT_EQ(index.Find(KeyOf(first_id, "", 200)), 4);
  index.Erase(9);  // it was never there
}

}  // namespace
}  // namespace modeld
