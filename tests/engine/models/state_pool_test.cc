#include "server/engine/models/state_pool.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "server/engine/models/kv_pool.h"
#include "server/engine/models/memory_plan.h"
#include "server/engine/models/row_group.h"
#include "tests/engine/models/golden.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

// Attention in the last of two layers; a sequence keeps 2 x 8 numbers.
ArchitectureConfig Hybrid() {
  return ReadArchitectureConfig(R"({"model_type":"lfm2","hidden_size":8,"intermediate_size":16,
      "num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,"vocab_size":320,
      "max_position_embeddings":4096,"layer_types":["conv","full_attention"]})")
      .value();
}

TEST(StatePoolTest, SlotComesBackWhenItsHolderEnds) {
  const auto pool = std::make_shared<StatePool>(Hybrid(), 2, at::kCPU);
  StateSlot kept(pool);
  {
    const StateSlot other(pool);
    ASSERT_TRUE(other);
    EXPECT_NE(*other, *kept);
    EXPECT_FALSE(StateSlot(pool));
  }
  EXPECT_EQ(pool->slots_free(), 1);
  const StateSlot moved = std::move(kept);
  EXPECT_TRUE(moved);
  EXPECT_EQ(pool->slots_free(), 1);
}

TEST(StatePoolTest, ReserveWithoutASlotTakesNoBlocks) {
  const ArchitectureConfig config = Hybrid();
  const auto states = std::make_shared<StatePool>(config, 1, at::kCPU);
  const auto kv = std::make_shared<KvPool>(KvPool::Options{
      .layers = KvShapes(config), .blocks = 4, .dtype = at::kFloat, .device = at::kCPU});
  auto first = std::make_unique<PagedState>(SequenceMemory{kv, states});
  PagedState second({kv, states});
  ASSERT_TRUE(first->Reserve(17));

  EXPECT_FALSE(second.Reserve(1));
  EXPECT_EQ(kv->blocks_free(), 2);

  first.reset();
  EXPECT_TRUE(second.Reserve(1));
  EXPECT_EQ(second.slot(), 0);
}

TEST(StatePoolTest, ReserveWithoutBlocksTakesNoSlot) {
  const ArchitectureConfig config = Hybrid();
  const auto states = std::make_shared<StatePool>(config, 1, at::kCPU);
  const auto kv = std::make_shared<KvPool>(KvPool::Options{
      .layers = KvShapes(config), .blocks = 1, .dtype = at::kFloat, .device = at::kCPU});
  PagedState state({kv, states});

  EXPECT_FALSE(state.Reserve(17));

  EXPECT_EQ(states->slots_free(), 1);
  EXPECT_EQ(kv->blocks_free(), 1);
}

// A slot has what its last sequence left, which may even be no number.
TEST(StatePoolTest, SequenceWithoutTokensBeginsWithZeros) {
  const at::Tensor pool = at::full({3, 2}, NAN);
  pool[1].fill_(5);
  const std::vector<int32_t> blocks = {0};
  const std::vector<KvRows> segments = {{.blocks = blocks, .past = 0, .first_row = 0, .rows = 2},
                                        {.blocks = blocks, .past = 7, .first_row = 2, .rows = 2},
                                        {.blocks = blocks, .past = 7, .first_row = 4, .rows = 1}};
  const std::vector<int64_t> slots = {2, 1, 1};

  const std::vector<RowGroup> groups = GroupRows(segments, slots, at::kCPU);

  ASSERT_EQ(groups.size(), 2U);
  EXPECT_EQ(groups[0].length, 1);
  EXPECT_TRUE(at::equal(groups[0].StateOf(pool), at::full({1, 2}, 5.0F)));
  EXPECT_TRUE(
      at::equal(groups[1].StateOf(pool), at::tensor({0.0F, 0.0F, 5.0F, 5.0F}).view({2, 2})));
  EXPECT_TRUE(at::equal(groups[1].RowsOf(at::arange(5)), at::arange(4).view({2, 2})));
}

// As the scheduler does when memory does not last: one gives its state back in the middle, another
// one goes on in its slot, and the first is read again beside it.
TEST(StatePoolTest, SequenceThatLostItsStateIsReadAgainAndGoesOnAlike) {
  const Golden golden = LoadGolden("tiny-lfm2");
  const LoadedModel loaded = LoadTiny("tiny-lfm2", "float32");
  const auto read = [&](SequenceState& state, std::vector<int64_t> ids) {
    EXPECT_TRUE(state.Reserve(state.length() + std::ssize(ids)));
    return loaded.model->Forward({{.state = &state, .token_ids = std::move(ids)}});
  };
  const std::vector<int64_t> all = golden.Fed(2);
  const std::vector<int64_t> begin(all.begin(), all.begin() + 11);
  const std::vector<int64_t> rest(all.begin() + 11, all.end());
  auto first = loaded.model->NewSequence();
  read(*first, begin);
  first.reset();
  const auto other = loaded.model->NewSequence();
  read(*other, golden.prompts[1]);
  first = loaded.model->NewSequence();
  read(*first, begin);

  const at::Tensor row = read(*first, rest);

  EXPECT_LT(RelativeDistance(row[0], golden.logits[2][-1]), 1e-3);
}

TEST(MemoryPlanTest, StatesOfSequencesAreWithinTheBudget) {
  const ArchitectureConfig config = Hybrid();
  const int64_t slot_bytes = StateBytesPerSequence(config);
  ASSERT_EQ(slot_bytes, 2 * 8 * 4);
  MemoryRequest request = {.map = DeviceMap::Whole("cpu", config.num_layers),
                           .budget_bytes = {{"cpu", int64_t{1} << 30}},
                           .element_bytes = 2};
  int64_t& budget = request.budget_bytes["cpu"];
  const auto ample = PlanMemory(config, request);
  ASSERT_THAT(ample, IsOk());
  EXPECT_EQ(ample->devices[0].state_bytes, ample->state_slots * slot_bytes);
  const int64_t token_bytes = 4 * 2 * 2;  // a key and a value; values are padded to 16
  // While the one such layer runs there are three copies of what it keeps of each sequence.
  const int64_t fixed = ample->devices[0].weights_bytes + ample->devices[0].workspace_bytes -
                        3 * ample->state_slots * slot_bytes;
  budget = fixed + 256 * (4 + 16) * 2 + 4 * slot_bytes;

  const auto tight = PlanMemory(config, request);
  budget -= 1;
  const auto refused = PlanMemory(config, request);

  ASSERT_THAT(tight, IsOk());
  EXPECT_EQ(KvBytesPerToken(config, 2), token_bytes);
  EXPECT_EQ(tight->state_slots, 1);
  EXPECT_EQ(tight->max_context, 256);
  EXPECT_THAT(refused, HasReasonOf(Reason::kInsufficientDeviceMemory));
}

}  // namespace
}  // namespace modeld
