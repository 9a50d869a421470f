// Sequences that begin with what earlier ones have left.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/engine/models/golden.h"

namespace modeld {
namespace {

using ::testing::ValuesIn;

// Reads `ids` and, one by one, `more`, as the scheduler does with a prompt and its answer.
void Leave(CausalLm& model, const std::vector<int64_t>& ids, const std::vector<int64_t>& more = {},
           const std::string& salt = "") {
  const std::unique_ptr<SequenceState> state = model.ResumeSequence(ids, salt);
  Feed(model, *state, {ids.begin() + state->length(), ids.end()});
  for (const int64_t id : more) Feed(model, *state, {id});
}

std::vector<int64_t> Joined(std::vector<int64_t> first, const std::vector<int64_t>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// How many of the tokens `ids` a new sequence would not have to read.
int64_t LeftOf(CausalLm& model, const std::vector<int64_t>& ids, const std::string& salt = "") {
  return model.ResumeSequence(ids, salt)->length();
}

// The last logits of `ids` and of `more`, one by one, behind what is left.
void ExpectAsIfAlone(CausalLm& model, const std::vector<int64_t>& ids, int64_t left,
                     const std::vector<int64_t>& more) {
  const std::unique_ptr<SequenceState> state = model.ResumeSequence(ids, "");
  ASSERT_EQ(state->length(), left);
  at::Tensor logits = Feed(model, *state, {ids.begin() + left, ids.end()});
  EXPECT_LT(RelativeDistance(logits, Alone(model, ids, {})), 1e-4);
  for (const int64_t id : more) logits = Feed(model, *state, {id});
  EXPECT_LT(RelativeDistance(logits, Alone(model, ids, more)), 1e-4);
}

// Every family, since they differ in what a state holds and how far tokens see.
// tiny-phi3-longrope has other keys for all tokens when there are more than 24.
class PrefixTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, PrefixTest, ValuesIn(GoldenNames()),
                         [](const auto& test) { return TestNameOf(test.param); });

TEST_P(PrefixTest, APromptThatWasReadIsReadFromItsLastWholeBlockOn) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  for (const int64_t length : {20, 33, 48}) {
    SCOPED_TRACE(length);
    const std::vector<int64_t> prompt = Ids(length, length);
    Leave(model, prompt);
    EXPECT_EQ(model.kv_tokens_free(), model.kv_tokens_total());

    ExpectAsIfAlone(model, prompt, (length - 1) / 16 * 16, Ids(4, 50));
  }
}

TEST_P(PrefixTest, AnAnswerIsLeftToo) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(27, 3);
  const std::vector<int64_t> answer = Ids(10, 90);
  Leave(model, prompt, answer);

  ExpectAsIfAlone(model, Joined(Joined(prompt, answer), Ids(5, 40)), 32, Ids(3, 50));
}

TEST(PrefixReuseTest, NothingIsLeftForAnotherSaltOrWithoutOne) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(40, 3);
  Leave(model, prompt, {}, "mine");

  EXPECT_EQ(LeftOf(model, prompt, "mine"), 32);
  EXPECT_EQ(LeftOf(model, prompt, "yours"), 0);
  EXPECT_EQ(LeftOf(model, prompt, ""), 0);
  Leave(model, prompt);
  EXPECT_EQ(LeftOf(model, prompt, ""), 32);
}

TEST(PrefixReuseTest, NothingIsLeftWhenItIsSwitchedOff) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "float32");
  options.prefix_cache = false;
  const LoadedModel loaded = LoadModel(options, nullptr).value();
  Leave(*loaded.model, Ids(40, 3));

  EXPECT_EQ(LeftOf(*loaded.model, Ids(40, 3)), 0);
}

TEST(PrefixReuseTest, OnlyTokensBeforeTheFirstDifferenceAreLeft) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  std::vector<int64_t> prompt = Ids(64, 3);
  Leave(model, prompt);
  prompt[33] += 1;

  EXPECT_EQ(LeftOf(model, prompt), 32);
  ExpectAsIfAlone(model, prompt, 32, {});
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 16}), 0);
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 17}), 16);
  EXPECT_EQ(LeftOf(model, {}), 0);
}

// Nobody waits for the end of a sequence to share its beginning, and nothing is copied.
TEST(PrefixReuseTest, ARunningSequenceSharesItsBlocks) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(100, 3);
  const std::unique_ptr<SequenceState> running = model.ResumeSequence(prompt, "");
  Feed(model, *running, prompt);
  const int64_t free = model.kv_tokens_free();

  const std::unique_ptr<SequenceState> other = model.ResumeSequence(prompt, "");
  EXPECT_EQ(other->length(), 96);
  EXPECT_EQ(model.kv_tokens_free(), free);
  Feed(model, *other, {prompt.begin() + 96, prompt.end()});
  EXPECT_EQ(model.kv_tokens_free(), free - 16);

  EXPECT_LT(RelativeDistance(Feed(model, *running, {5}), Alone(model, prompt, {5})), 1e-4);
  EXPECT_LT(RelativeDistance(Feed(model, *other, {7}), Alone(model, prompt, {7})), 1e-4);
}

TEST(PrefixReuseTest, TwoThatReadTheSameInOneStepHoldItOnce) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(100, 3);
  const std::unique_ptr<SequenceState> first = model.ResumeSequence(prompt, "");
  const std::unique_ptr<SequenceState> second = model.ResumeSequence(prompt, "");
  ASSERT_TRUE(first->Reserve(100));
  ASSERT_TRUE(second->Reserve(100));

  model.Forward(
      {{.state = first.get(), .token_ids = prompt}, {.state = second.get(), .token_ids = prompt}});

  EXPECT_EQ(model.kv_tokens_total() - model.kv_tokens_free(), 96 + 2 * 16);
  EXPECT_LT(RelativeDistance(Feed(model, *first, {5}), Alone(model, prompt, {5})), 1e-4);
  EXPECT_LT(RelativeDistance(Feed(model, *second, {7}), Alone(model, prompt, {7})), 1e-4);
}

// A short sequence and one that outgrows 24 tokens share a block before and none behind.
TEST(PrefixLongRopeTest, ASequenceThatIsComputedAgainLeavesTheBlocksOfOthersAlone) {
  const LoadedModel loaded = LoadTiny("tiny-phi3-longrope", "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(20, 3);
  const std::vector<int64_t> more = Ids(10, 60);
  const std::unique_ptr<SequenceState> stays_short = model.ResumeSequence(prompt, "");
  Feed(model, *stays_short, prompt);
  const std::unique_ptr<SequenceState> grows = model.ResumeSequence(prompt, "");
  ASSERT_EQ(grows->length(), 16);
  at::Tensor logits = Feed(model, *grows, {prompt.begin() + 16, prompt.end()});
  const std::unique_ptr<SequenceState> fork = grows->Fork();
  for (const int64_t id : more) logits = Feed(model, *grows, {id});

  EXPECT_LT(RelativeDistance(logits, Alone(model, prompt, more)), 1e-4);
  for (SequenceState* state : {stays_short.get(), fork.get()}) {
    EXPECT_LT(RelativeDistance(Feed(model, *state, {5}), Alone(model, prompt, {5})), 1e-4);
  }
  EXPECT_EQ(LeftOf(model, prompt), 16);
  EXPECT_EQ(LeftOf(model, Joined(prompt, Ids(40, 100))), 0);  // 16 of these are not enough
}

TEST(PrefixLongRopeTest, WhatALongSequenceLeavesIsForLongOnes) {
  const LoadedModel loaded = LoadTiny("tiny-phi3-longrope", "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(50, 3);
  Leave(model, prompt);

  EXPECT_EQ(LeftOf(model, prompt), 48);
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 24}), 0);
  std::vector<int64_t> differs = prompt;
  differs[20] += 1;
  EXPECT_EQ(LeftOf(model, differs), 0);  // 16 tokens would be those of a short one
}

// The layers that are not attention can go on only where their state was kept: at the last whole
// block of a prompt and of an answer.
class PrefixHybridTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, PrefixHybridTest,
                         testing::Values("tiny-lfm2", "tiny-qwen3-next", "tiny-qwen3-5",
                                         "tiny-granite-hybrid"),
                         [](const auto& test) { return TestNameOf(test.param); });

TEST_P(PrefixHybridTest, NothingIsLeftBetweenSnapshots) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(100, 3);
  const std::vector<int64_t> answer = Ids(45, 80);
  Leave(model, prompt, answer);
  const std::vector<int64_t> all = Joined(prompt, answer);

  EXPECT_EQ(LeftOf(model, {all.begin(), all.begin() + 96}), 0);
  EXPECT_EQ(LeftOf(model, {all.begin(), all.begin() + 97}), 96);
  EXPECT_EQ(LeftOf(model, {all.begin(), all.begin() + 140}), 96);
  ExpectAsIfAlone(model, {all.begin(), all.begin() + 140}, 96, Ids(2, 5));
  ExpectAsIfAlone(model, all, 144, Ids(20, 7));
}

// Chunks of 40. The state is kept at their last whole blocks, when that is at least twice as far as
// the time before: 32, 80, 160, 320.
TEST_P(PrefixHybridTest, BeginningsOfALongPromptAreLeftToo) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> prompt = Ids(330, 3);
  {
    const std::unique_ptr<SequenceState> state = model.ResumeSequence(prompt, "");
    ASSERT_TRUE(state->Reserve(330));
    at::Tensor logits;
    for (int64_t begin = 0; begin < 330; begin += 40) {
      const int64_t end = std::min<int64_t>(begin + 40, 330);
      logits = model.Forward({{.state = state.get(),
                               .token_ids = {prompt.begin() + begin, prompt.begin() + end},
                               .wants_logits = end == 330}});
    }
    EXPECT_LT(RelativeDistance(logits, Alone(model, prompt, {})), 1e-4);
  }

  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 63}), 32);
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 80}), 32);
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 81}), 80);
  EXPECT_EQ(LeftOf(model, {prompt.begin(), prompt.begin() + 200}), 160);
  EXPECT_EQ(LeftOf(model, prompt), 320);
  ExpectAsIfAlone(model, Joined({prompt.begin(), prompt.begin() + 190}, Ids(9, 1)), 160, {4});
}

// A step of three prompts whose states are kept on the way, one of which wants all its logits, and
// of one that decodes: each row of logits is that of its segment.
TEST_P(PrefixHybridTest, SnapshotsDoNotMixUpTheLogitsOfAStep) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  const std::vector<std::vector<int64_t>> prompts = {Ids(40, 1), Ids(35, 2), {}, Ids(23, 3)};
  const std::unique_ptr<SequenceState> decoding = model.ResumeSequence({}, "");
  Feed(model, *decoding, Ids(30, 9));
  std::vector<std::unique_ptr<SequenceState>> states;
  std::vector<Segment> segments;
  for (const auto& prompt : prompts) {
    states.push_back(model.ResumeSequence(prompt, ""));
    SequenceState& state = prompt.empty() ? *decoding : *states.back();
    const std::vector<int64_t> ids = prompt.empty() ? std::vector<int64_t>{5} : prompt;
    ASSERT_TRUE(state.Reserve(state.length() + std::ssize(ids)));
    segments.push_back({.state = &state, .token_ids = ids});
  }
  segments[1].wants_all_logits = true;

  const at::Tensor logits = model.Forward(segments);

  ASSERT_EQ(logits.size(0), 1 + 35 + 1 + 1);
  EXPECT_LT(RelativeDistance(logits[0], Alone(model, prompts[0], {})[0]), 1e-4);
  EXPECT_LT(RelativeDistance(logits.slice(0, 1, 36), AllLogits(model, prompts[1], 1000)), 1e-4);
  EXPECT_LT(RelativeDistance(logits[36], Alone(model, Ids(30, 9), {5})[0]), 1e-4);
  EXPECT_LT(RelativeDistance(logits[37], Alone(model, prompts[3], {})[0]), 1e-4);
}

// Sequences that run need all slots but one, then all.
TEST_P(PrefixHybridTest, SnapshotsGiveWayToSequences) {
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  CausalLm& model = *loaded.model;
  const std::vector<int64_t> first = Ids(40, 3);
  const std::vector<int64_t> second = Ids(40, 50);
  Leave(model, first);
  Leave(model, second);
  std::vector<std::unique_ptr<SequenceState>> running;
  while (true) {
    auto state = model.NewSequence();
    if (!state->Reserve(1)) break;
    running.push_back(std::move(state));
  }
  EXPECT_EQ(LeftOf(model, first), 0);
  EXPECT_EQ(LeftOf(model, second), 0);

  running.pop_back();
  Leave(model, first);  // without a slot for a snapshot
  EXPECT_EQ(LeftOf(model, first), 0);
  running.pop_back();
  Leave(model, first);
  ExpectAsIfAlone(model, first, 32, {6});
}

}  // namespace
}  // namespace modeld
