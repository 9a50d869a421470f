// Sequences that go on from one state.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/engine/models/golden.h"

namespace modeld {
namespace {

// Each family, since they differ in what a state holds. Lengths within a block and at its end;
// tiny-phi3-longrope computes a sequence again when it gets longer than 24 tokens.
class ForkTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, ForkTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& test) { return TestNameOf(test.param); });

TEST_P(ForkTest, EachGoesOnAsIfItWereAlone) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  for (const int64_t length : {16, 22}) {
    SCOPED_TRACE(length);
    const std::vector<int64_t> prompt = Ids(length, 3);
    std::unique_ptr<SequenceState> first = model.NewSequence();
    Feed(model, *first, prompt);
    std::unique_ptr<SequenceState> second = first->Fork();
    ASSERT_TRUE(second);
    EXPECT_EQ(second->length(), length);
    const std::vector<int64_t> more_of_first = Ids(4, 50);
    const std::vector<int64_t> more_of_second = Ids(4, 90);

    at::Tensor first_logits;
    at::Tensor second_logits;
    for (size_t i = 0; i < more_of_first.size(); ++i) {
      first_logits = Feed(model, *first, {more_of_first[i]});
      if (i + 1 == more_of_first.size()) first.reset();  // the other one keeps what both had
      second_logits = Feed(model, *second, {more_of_second[i]});
    }

    EXPECT_LT(RelativeDistance(first_logits, Alone(model, prompt, more_of_first)), 1e-5);
    EXPECT_LT(RelativeDistance(second_logits, Alone(model, prompt, more_of_second)), 1e-5);
    second.reset();
    EXPECT_EQ(model.kv_tokens_free(), model.kv_tokens_total());
  }
}

TEST(ForkMemoryTest, FullBlocksAreSharedAndTheLastIsCopied) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  const std::unique_ptr<SequenceState> first = model.NewSequence();
  Feed(model, *first, Ids(100, 3));
  const int64_t free = model.kv_tokens_free();

  std::vector<std::unique_ptr<SequenceState>> forks;
  for (int i = 0; i < 5; ++i) forks.push_back(first->Fork());

  EXPECT_EQ(model.kv_tokens_free(), free - 5 * 16);
  forks.clear();
  EXPECT_EQ(model.kv_tokens_free(), free);
}

TEST(ForkMemoryTest, WithoutMemoryThereIsNoForkAndNothingHasChanged) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  const std::unique_ptr<SequenceState> first = model.NewSequence();
  Feed(model, *first, Ids(20, 3));
  const std::unique_ptr<SequenceState> rest = model.NewSequence();
  ASSERT_TRUE(rest->Reserve(model.kv_tokens_free()));

  EXPECT_FALSE(first->Fork());

  EXPECT_EQ(model.kv_tokens_free(), 0);
  EXPECT_LT(RelativeDistance(Feed(model, *first, {5}),
                             Alone(*LoadTiny("tiny-llama", "float32").model, Ids(20, 3), {5})),
            1e-5);
}

}  // namespace
}  // namespace modeld
