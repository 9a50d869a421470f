// Several answers to one prompt, and what is said of the prompt's own tokens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "server/engine/batch/scheduler.h"
#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::Each;
using ::testing::Le;
using ::testing::SizeIs;

std::vector<int64_t> Prompt(int64_t length) {
  std::vector<int64_t> prompt(length);
  for (int64_t i = 0; i < length; ++i) prompt[i] = i * i % TinyLm::kVocab;
  return prompt;
}

// The tokens of each choice.
std::vector<std::vector<int64_t>> Tokens(const std::vector<OutputPiece>& choices) {
  std::vector<std::vector<int64_t>> tokens;
  for (const OutputPiece& choice : choices) tokens.push_back(choice.token_ids);
  return tokens;
}

std::vector<OutputPiece> AnswersOf(TinyLm& model, const GenerationRequest& request) {
  Scheduler scheduler({}, model, Clock::Real());
  Call call(request);
  EXPECT_THAT(scheduler.Submit(call.generation()), IsOk());
  return call.ReadChoices();
}

TEST(ChoicesTest, ThePromptIsReadOnceAndTheRequestCountsOnce) {
  int64_t tokens_fed = 0;
  TinyLm model;
  model.on_forward = [&](const std::vector<Segment>& segments) {
    for (const Segment& segment : segments) tokens_fed += std::ssize(segment.token_ids);
  };
  Scheduler scheduler({.prefill_tokens_max = 32}, model, Clock::Real());
  Call call(Drawn(Request(Prompt(70), 12), 4));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const std::vector<OutputPiece> choices = call.ReadChoices();

  EXPECT_THAT(Tokens(choices), Each(SizeIs(12)));
  EXPECT_EQ(tokens_fed, 70 + 4 * 11);  // the last token of a choice needs no state
  const SchedulerStats stats = scheduler.Stats();
  EXPECT_EQ(stats.prompt_tokens, 70);
  EXPECT_EQ(stats.generated_tokens, 4 * 12);
  EXPECT_EQ((stats.finished.at({"Generate", "length"})), 1);
  EXPECT_EQ(std::accumulate(stats.time_to_first_token.counts.begin(),
                            stats.time_to_first_token.counts.end(), int64_t{0}),
            1);
  EXPECT_EQ(stats.active + stats.waiting, 0);
  EXPECT_EQ(stats.kv_used_ratio, 0);
  const auto last = std::ranges::find_if(choices, &OutputPiece::last);
  ASSERT_NE(last, choices.end());
  EXPECT_EQ(last->end->usage.prompt_tokens, 70);
  EXPECT_EQ(last->end->usage.generated_tokens, 4 * 12);
}

TEST(ChoicesTest, AChoiceIsTheSameForEveryNumberOfChoicesAndLikeNoOther) {
  TinyLm model;
  const auto four = Tokens(AnswersOf(model, Drawn(Request(Prompt(20), 30), 4)));
  const auto two = Tokens(AnswersOf(model, Drawn(Request(Prompt(20), 30), 2)));
  const auto one = Tokens(AnswersOf(model, Drawn(Request(Prompt(20), 30), 1)));

  EXPECT_EQ(four[0], one[0]);
  EXPECT_EQ(four[0], two[0]);
  EXPECT_EQ(four[1], two[1]);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(std::ranges::count(four, four[i]), 1) << i;
  }
}

// 70 tokens of the prompt and 5 of each of 4 choices have a state; alone each would need 75.
TEST(ChoicesTest, ChoicesShareTheMemoryOfThePrompt) {
  TinyLm model;
  model.kv_tokens = 70 + 4 * 5;
  Scheduler scheduler({}, model, Clock::Real());
  Call call(Drawn(Request(Prompt(70), 6), 4));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  EXPECT_THAT(Tokens(call.ReadChoices()), Each(SizeIs(6)));
  EXPECT_EQ(scheduler.Stats().preemptions, 0);
}

TEST(ChoicesTest, AChoiceWithoutMemoryForItsStateReadsThePromptAgainAndLosesNothing) {
  TinyLm model;
  const auto expected = Tokens(AnswersOf(model, Drawn(Request(Prompt(40), 10), 3)));
  model.has_memory_for_forks = false;

  EXPECT_EQ(Tokens(AnswersOf(model, Drawn(Request(Prompt(40), 10), 3))), expected);
}

TEST(ChoicesTest, ChoicesThatDoNotFitTogetherTakeTurnsAndLoseNothing) {
  TinyLm model;
  const auto expected = Tokens(AnswersOf(model, Drawn(Request(Prompt(20), 50), 3)));
  model.kv_tokens = 100;

  EXPECT_EQ(Tokens(AnswersOf(model, Drawn(Request(Prompt(20), 50), 3))), expected);
}

TEST(ChoicesTest, BestOfAnswersTheLikeliestChoicesBestFirst) {
  TinyLm model;
  GenerationRequest request = Drawn(Request(Prompt(9), 20), 8);
  request.sampling.logprobs = 0;
  std::vector<OutputPiece> all = AnswersOf(model, request);
  const auto mean = [](const OutputPiece& choice) {
    double sum = 0;
    for (const PositionLogprobs& position : choice.logprobs) sum += position.chosen.logprob;
    return sum / static_cast<double>(choice.logprobs.size());
  };
  std::ranges::stable_sort(all, std::greater<>(), mean);

  request.sampling.n = 3;
  request.sampling.logprobs.reset();
  const std::vector<OutputPiece> best = AnswersOf(model, request);

  ASSERT_EQ(best.size(), 3U);
  for (size_t i = 0; i < best.size(); ++i) {
    EXPECT_EQ(best[i].token_ids, all[i].token_ids) << i;
    ASSERT_TRUE(best[i].end);
    EXPECT_NEAR(best[i].end->score.value_or(0), mean(all[i]), 1e-12) << i;
    EXPECT_TRUE(best[i].logprobs.empty());
  }
  EXPECT_EQ(best[2].end->usage.generated_tokens, 8 * 20);
}

TEST(ChoicesTest, AnErrorOfOneChoiceEndsAllOfThem) {
  TinyLm model;
  model.nan_after = 11;
  Scheduler scheduler({}, model, Clock::Real());
  Call call(Drawn(Request(Prompt(9), 5'000), 4));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  for (const OutputPiece& choice : call.ReadChoices()) {
    ASSERT_TRUE(choice.end);
    EXPECT_THAT(choice.end->status, HasReasonOf(Reason::kInternal));
  }
  const SchedulerStats stats = scheduler.Stats();
  EXPECT_EQ((stats.finished.at({"Generate", "error"})), 1);
  EXPECT_EQ(stats.active + stats.waiting, 0);
  EXPECT_EQ(stats.kv_used_ratio, 0);
}

// What TinyLm's rows say of each token of `prompt` but the first.
void ExpectLogprobsOf(const std::vector<int64_t>& prompt,
                      const std::vector<PositionLogprobs>& logprobs) {
  const double log_total = std::log(std::exp(2.0) + static_cast<double>(TinyLm::kVocab - 1));
  ASSERT_EQ(logprobs.size(), prompt.size() - 1);
  for (size_t i = 1; i < prompt.size(); ++i) {
    const int64_t likeliest = TinyLm::NextToken({prompt.begin(), prompt.begin() + i});
    const PositionLogprobs& position = logprobs[i - 1];
    EXPECT_EQ(position.chosen.token_id, prompt[i]);
    EXPECT_NEAR(position.chosen.logprob, (prompt[i] == likeliest ? 2 : 0) - log_total, 1e-9);
    ASSERT_EQ(position.top.size(), 2U);
    EXPECT_EQ(position.top[0].token_id, likeliest);
  }
}

GenerationRequest Scored(int64_t prompt_tokens, int64_t max_tokens) {
  GenerationRequest request = Request(Prompt(prompt_tokens), max_tokens);
  request.sampling.prompt_logprobs = 2;
  return request;
}

TEST(PromptLogprobsTest, EachTokenButTheFirstHasItsOwnInStepsOfFewRows) {
  std::vector<int64_t> rows;
  TinyLm model;
  model.on_forward = [&](const std::vector<Segment>& segments) {
    int64_t scored = 0;
    for (const Segment& s : segments) scored += s.wants_all_logits ? std::ssize(s.token_ids) : 0;
    rows.push_back(scored);
  };
  for (const int64_t length : {1, 2, 64, 65, 150}) {
    const std::vector<OutputPiece> out = AnswersOf(model, Scored(length, 5));

    ExpectLogprobsOf(Prompt(length), out[0].prompt_logprobs);
    EXPECT_EQ(out[0].token_ids, TinyLm::Answer(Prompt(length), 5)) << length;
  }
  EXPECT_THAT(rows, Each(Le(64)));
}

TEST(PromptLogprobsTest, ComeOnceForAllChoicesAndAlsoWithoutAnAnswer) {
  TinyLm model;
  GenerationRequest request = Drawn(Scored(100, 3), 2);
  request.sampling.best_of = 4;
  const std::vector<OutputPiece> out = AnswersOf(model, request);
  ExpectLogprobsOf(Prompt(100), out[0].prompt_logprobs);
  EXPECT_TRUE(out[1].prompt_logprobs.empty());

  const std::vector<OutputPiece> none = AnswersOf(model, Scored(100, 0));
  ExpectLogprobsOf(Prompt(100), none[0].prompt_logprobs);
  EXPECT_TRUE(none[0].token_ids.empty());
  EXPECT_EQ(none[0].end->reason, FinishReason::kLength);
  EXPECT_THAT(none[0].end->status, IsOk());
}

// The state is lost while the reader is slow; what was said before is not said again.
TEST(PromptLogprobsTest, ASlowReaderPausesThemAndGetsEachOnce) {
  TinyLm model;
  model.kv_tokens = 200;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Scored(150, 4);
  request.unread_tokens_max = 10;
  Call slow(request);
  ASSERT_THAT(scheduler.Submit(slow.generation()), IsOk());
  Call other(Request(Prompt(100), 20));
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  EXPECT_EQ(other.ReadAll().token_ids, TinyLm::Answer(Prompt(100), 20));
  const OutputPiece out = slow.ReadAll();

  EXPECT_EQ(scheduler.Stats().preemptions, 1);
  ExpectLogprobsOf(Prompt(150), out.prompt_logprobs);
  EXPECT_EQ(out.token_ids, TinyLm::Answer(Prompt(150), 4));
}

}  // namespace
}  // namespace modeld
