#include "server/engine/models/kv_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace modeld {
namespace {

using ::testing::ElementsAre;

KvPool::Options SmallPool(int64_t blocks) {
  return {.layers = {{.heads = 1, .key_dim = 2, .value_dim = 2}},
          .blocks = blocks,
          .dtype = at::kFloat,
          .device = at::kCPU};
}

BlockKey KeyOf(int64_t parent, int32_t token) {
  BlockKey key = {.parent = parent};
  key.token_ids.fill(token);
  return key;
}

// A sequence of as many blocks as `tokens`, which are kept and then given back.
std::vector<int32_t> Leave(KvPool& pool, const std::vector<int32_t>& tokens) {
  std::vector<int32_t> blocks;
  EXPECT_TRUE(pool.Take(std::ssize(tokens), blocks));
  int64_t parent = BlockKey::kFirst;
  for (size_t i = 0; i < blocks.size(); ++i) {
    blocks[i] = pool.Keep(blocks[i], KeyOf(parent, tokens[i]));
    parent = pool.IdOf(blocks[i]);
  }
  pool.GiveBack(blocks);
  return blocks;
}

TEST(KvPoolTest, KeptBlocksAreFreeAndStillFound) {
  KvPool pool(SmallPool(4));

  const std::vector<int32_t> blocks = Leave(pool, {1, 2});

  EXPECT_EQ(pool.blocks_free(), 4);
  EXPECT_EQ(pool.Find(KeyOf(BlockKey::kFirst, 1)), blocks[0]);
  EXPECT_EQ(pool.Find(KeyOf(pool.IdOf(blocks[0]), 2)), blocks[1]);
  pool.Share(blocks);
  EXPECT_EQ(pool.blocks_free(), 2);
  pool.GiveBack(blocks);
  EXPECT_EQ(pool.blocks_free(), 4);
}

TEST(KvPoolTest, WhatWasNotUsedForTheLongestTimeIsLentFirstAndEndsBeforeBeginnings) {
  KvPool pool(SmallPool(5));
  const std::vector<int32_t> first = Leave(pool, {1, 2});
  const std::vector<int32_t> second = Leave(pool, {3, 4});
  pool.Share(first);  // used again
  pool.GiveBack(first);
  std::vector<int32_t> taken;

  ASSERT_TRUE(pool.Take(5, taken));

  ASSERT_EQ(taken.size(), 5U);  // the one that was never used before all others
  EXPECT_THAT(std::vector(taken.begin() + 1, taken.end()),
              ElementsAre(second[1], second[0], first[1], first[0]));
  EXPECT_EQ(pool.Find(KeyOf(BlockKey::kFirst, 1)), -1);
  EXPECT_EQ(pool.IdOf(first[0]), 0);
}

TEST(KvPoolTest, HeldBlocksAreNeverLent) {
  KvPool pool(SmallPool(4));
  const std::vector<int32_t> held = Leave(pool, {1, 2});
  Leave(pool, {3});
  pool.Share(held);
  std::vector<int32_t> taken;

  EXPECT_FALSE(pool.Take(3, taken));
  EXPECT_NE(pool.Find(KeyOf(BlockKey::kFirst, 3)), -1);  // nothing has changed
  EXPECT_TRUE(pool.Take(2, taken));

  EXPECT_EQ(pool.Find(KeyOf(BlockKey::kFirst, 1)), held[0]);
  EXPECT_EQ(pool.Find(KeyOf(BlockKey::kFirst, 3)), -1);
}

TEST(KvPoolTest, ASecondBlockOfTheSameTokensGivesWayToTheFirst) {
  KvPool pool(SmallPool(4));
  std::vector<int32_t> blocks;
  ASSERT_TRUE(pool.Take(2, blocks));

  EXPECT_EQ(pool.Keep(blocks[0], KeyOf(BlockKey::kFirst, 1)), blocks[0]);
  EXPECT_EQ(pool.Keep(blocks[1], KeyOf(BlockKey::kFirst, 1)), blocks[0]);

  EXPECT_TRUE(pool.IsShared(blocks[0]));
  EXPECT_EQ(pool.blocks_free(), 3);
  pool.GiveBack({blocks[0], blocks[0]});
  EXPECT_EQ(pool.blocks_free(), 4);
}

TEST(KvPoolTest, AForgottenBlockIsNotFound) {
  KvPool pool(SmallPool(4));
  std::vector<int32_t> blocks;
  ASSERT_TRUE(pool.Take(1, blocks));
  pool.Keep(blocks[0], KeyOf(BlockKey::kFirst, 1));

  pool.Forget(blocks[0]);

  EXPECT_EQ(pool.Find(KeyOf(BlockKey::kFirst, 1)), -1);
  pool.GiveBack(blocks);
  EXPECT_EQ(pool.blocks_free(), 4);
}

}  // namespace
}  // namespace modeld
