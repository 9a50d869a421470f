// What generations answer, and how they end.
#include "server/engine/batch/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>
#include <vector>

#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::Eq;
using ::testing::Ge;
using ::testing::Gt;
using ::testing::Le;
using ::testing::Optional;

std::vector<int64_t> Prompt(int64_t length, int64_t first) {
  std::vector<int64_t> prompt(length);
  std::iota(prompt.begin(), prompt.end(), first);
  for (int64_t& token : prompt) token %= TinyLm::kVocab;
  return prompt;
}

TEST(SchedulerTest, EachOfManyGetsItsOwnAnswerHoweverLongItsPrompt) {
  TinyLm model;
  Scheduler scheduler({.sequences_max = 4, .prefill_tokens_max = 100}, model, Clock::Real());
  std::vector<std::unique_ptr<Call>> calls;
  for (const int64_t length : {1, 7, 99, 100, 101, 333, 2, 1000}) {
    calls.push_back(std::make_unique<Call>(Request(Prompt(length, length), 5 + length % 40)));
    ASSERT_THAT(scheduler.Submit(calls.back()->generation()), IsOk());
  }

  for (const auto& call : calls) {
    const OutputPiece answer = call->ReadAll();

    const GenerationRequest& request = call->generation()->request();
    EXPECT_THAT(answer.end->status, IsOk());
    EXPECT_EQ(answer.end->reason, FinishReason::kLength);
    EXPECT_THAT(answer.token_ids,
                ElementsAreArray(TinyLm::Answer(request.prompt, request.sampling.max_tokens)));
  }
}

TEST(SchedulerTest, NoStepReadsMorePromptThanItMay) {
  std::vector<int64_t> prefill_tokens;
  TinyLm model;
  model.on_forward = [&](const std::vector<Segment>& segments) {
    int64_t sum = 0;
    for (const Segment& s : segments) sum += s.token_ids.size() > 1 ? std::ssize(s.token_ids) : 0;
    prefill_tokens.push_back(sum);
  };
  {
    Scheduler scheduler({.prefill_tokens_max = 64}, model, Clock::Real());
    Call long_prompt(Request(Prompt(500, 0), 3));
    Call other(Request(Prompt(90, 3), 3));
    ASSERT_THAT(scheduler.Submit(long_prompt.generation()), IsOk());
    ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());
    long_prompt.ReadAll();
    other.ReadAll();
  }

  EXPECT_THAT(prefill_tokens, Each(Le(64)));
  EXPECT_THAT(prefill_tokens.size(), Ge(10U));
}

TEST(SchedulerTest, ASeedDrawsTheSameTokensWhateverElseIsInTheBatch) {
  TinyLm model;
  const auto seeded = [] {
    GenerationRequest request = Request({1, 2, 3}, 30);
    request.sampling.greedy = false;
    request.sampling.seed = 42;
    return request;
  };
  Scheduler scheduler({}, model, Clock::Real());
  Call alone(seeded());
  ASSERT_THAT(scheduler.Submit(alone.generation()), IsOk());
  const std::vector<int64_t> expected = alone.ReadAll().token_ids;

  GenerationRequest neighbour_request = Request({9}, 40);
  neighbour_request.sampling.greedy = false;
  Call neighbour(neighbour_request);
  Call again(seeded());
  ASSERT_THAT(scheduler.Submit(neighbour.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(again.generation()), IsOk());

  EXPECT_EQ(again.ReadAll().token_ids, expected);
  EXPECT_NE(expected, TinyLm::Answer({1, 2, 3}, 30));  // it was drawn, not greedy
  neighbour.ReadAll();
}

TEST(SchedulerTest, AnEndOfSequenceTokenStopsAndIsCountedButHasNoText) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  const std::vector<int64_t> answer = TinyLm::Answer({4, 5}, 3);
  GenerationRequest request = Request({4, 5}, 100);
  request.eos_token_ids = {answer[2]};
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_EQ(out.end->reason, FinishReason::kStop);
  EXPECT_THAT(out.token_ids, ElementsAreArray(answer));
  EXPECT_EQ(out.text, "<" + std::to_string(answer[0]) + "><" + std::to_string(answer[1]) + ">");
  EXPECT_EQ(out.end->usage.prompt_tokens, 2);
  EXPECT_EQ(out.end->usage.generated_tokens, 3);
}

TEST(SchedulerTest, AStopTokenStopsAlsoWhenTheEndOfSequenceIsIgnored) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  const std::vector<int64_t> answer = TinyLm::Answer({4, 5}, 3);
  GenerationRequest request = Request({4, 5}, 100);
  request.eos_token_ids = {answer[1]};
  request.sampling.ignore_eos = true;
  request.sampling.stop_token_ids = {answer[2]};
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_EQ(out.end->reason, FinishReason::kStop);
  EXPECT_THAT(out.end->stop_token_id, Optional(answer[2]));
  EXPECT_FALSE(out.end->stop_match);
  EXPECT_THAT(out.token_ids, ElementsAreArray(answer));
  EXPECT_EQ(out.text, "<" + std::to_string(answer[0]) + "><" + std::to_string(answer[1]) + ">");
}

// The end would be the second token; TinyLm's other tokens are all equally likely.
TEST(SchedulerTest, NoEndIsChosenBeforeTheLeastNumberOfTokens) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  const std::vector<int64_t> answer = TinyLm::Answer({4, 5}, 2);
  GenerationRequest request = Request({4, 5}, 100);
  request.eos_token_ids = {answer[1]};
  request.sampling.min_tokens = 2;
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  ASSERT_GT(out.token_ids.size(), 2U);
  EXPECT_EQ(out.token_ids[0], answer[0]);
  EXPECT_NE(out.token_ids[1], answer[1]);
}

TEST(SchedulerTest, NoStopStringIsLookedForBeforeTheLeastNumberOfTokens) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Request({4, 5}, 100);
  request.sampling.stop = {">"};
  request.sampling.min_tokens = 3;
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_EQ(out.token_ids.size(), 4U);
  EXPECT_THAT(out.end->stop_match, Optional(Eq(">")));
  EXPECT_FALSE(out.end->stop_token_id);
}

TEST(SchedulerTest, AnEndOfSequenceTokenIsAnOrdinaryOneWhenIgnored) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Request({4, 5}, 6);
  request.eos_token_ids = {TinyLm::Answer({4, 5}, 1)[0]};
  request.sampling.ignore_eos = true;
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_EQ(out.end->reason, FinishReason::kLength);
  EXPECT_EQ(out.token_ids.size(), 6U);
}

TEST(SchedulerTest, AStopStringAcrossTokensEndsTheTextBeforeIt) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  const std::vector<int64_t> answer = TinyLm::Answer({4, 5}, 3);
  GenerationRequest request = Request({4, 5}, 100);
  const std::string stop = ">" + std::string("<") + std::to_string(answer[2]);
  request.sampling.stop = {stop};
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_EQ(out.end->reason, FinishReason::kStop);
  EXPECT_THAT(out.end->stop_match, Optional(Eq(stop)));
  EXPECT_EQ(out.text, "<" + std::to_string(answer[0]) + "><" + std::to_string(answer[1]));
  EXPECT_EQ(out.token_ids.size(), 3U);
}

// The text stands back until a character is whole, as a TokenStream has it.
TEST(SchedulerTest, TextThatWasNotCertainComesOutAtTheEnd) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Request({4, 5}, 3);
  request.new_token_text = [] {
    return [tokens = 0](std::optional<int64_t> id) mutable -> std::string {
      if (!id) return tokens % 2 == 0 ? "" : "\uFFFD";
      return ++tokens % 2 == 0 ? "\u20ac" : "";
    };
  };
  Call call(request);
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  EXPECT_EQ(call.ReadAll().text, "\u20ac\uFFFD");
}

TEST(SchedulerTest, CancellationTakesTheSequenceOutOfTheNextStepAndFreesItsState) {
  TinyLm model;
  Call cancelled(Request(Prompt(50, 0), 1'000));
  Call other(Request({7, 8, 9}, 40));
  int steps_after_cancel = 0;
  std::vector<size_t> sequences_after_cancel;
  std::vector<int64_t> used_after_cancel;
  bool was_cancelled = false;
  model.on_forward = [&](const std::vector<Segment>& segments) {
    if (was_cancelled) {
      ++steps_after_cancel;
      sequences_after_cancel.push_back(segments.size());
      used_after_cancel.push_back(model.kv_tokens_total() - model.kv_tokens_free());
    } else if (segments.size() == 2 && segments.back().state->length() > 10) {
      cancelled.generation()->Cancel();
      was_cancelled = true;
    }
  };
  Scheduler scheduler({}, model, Clock::Real());
  ASSERT_THAT(scheduler.Submit(cancelled.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  const OutputPiece out = cancelled.ReadAll();
  const OutputPiece other_out = other.ReadAll();

  EXPECT_THAT(out.end->status, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(other_out.token_ids, ElementsAreArray(TinyLm::Answer({7, 8, 9}, 40)));
  EXPECT_GT(steps_after_cancel, 0);
  EXPECT_THAT(sequences_after_cancel, Each(1U));
  EXPECT_THAT(used_after_cancel, Each(Le(43)));
  const SchedulerStats stats = scheduler.Stats();
  EXPECT_EQ(stats.active, 0);
  EXPECT_EQ(stats.kv_used_ratio, 0);
  EXPECT_EQ((stats.finished.at({"Generate", "cancelled"})), 1);
  EXPECT_EQ((stats.finished.at({"Generate", "length"})), 1);
}

TEST(SchedulerTest, ADeadlineEndsItsOwnGenerationOnly) {
  FakeClock clock;
  TinyLm model;
  model.on_forward = [&](const auto&) { clock.Advance(std::chrono::seconds(1)); };
  Scheduler scheduler({}, model, clock);
  GenerationRequest request = Request({1}, 1'000);
  request.deadline = clock.Steady() + std::chrono::seconds(20);
  Call late(request);
  Call other(Request({2}, 50));
  ASSERT_THAT(scheduler.Submit(late.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  const OutputPiece out = late.ReadAll();

  EXPECT_THAT(out.end->status, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_THAT(out.token_ids.size(), AllOf(Gt(0U), Le(20U)));
  EXPECT_EQ(other.ReadAll().token_ids.size(), 50U);
}

TEST(SchedulerTest, AFailedForwardFailsThoseInTheStepAndNobodyElse) {
  TinyLm model;
  model.on_forward = [](const std::vector<Segment>& segments) {
    if (segments.front().token_ids.front() == 60) throw std::runtime_error("no memory\nbacktrace");
  };
  Scheduler scheduler({}, model, Clock::Real());
  Call failing(Request({60}, 10));
  ASSERT_THAT(scheduler.Submit(failing.generation()), IsOk());

  const OutputPiece out = failing.ReadAll();
  EXPECT_THAT(out.end->status, HasReasonOf(Reason::kInternal));
  EXPECT_EQ(std::string(out.end->status.message()), "the forward pass failed: no memory");

  Call next(Request({3}, 4));
  ASSERT_THAT(scheduler.Submit(next.generation()), IsOk());
  EXPECT_THAT(next.ReadAll().token_ids, ElementsAreArray(TinyLm::Answer({3}, 4)));
  EXPECT_EQ((scheduler.Stats().finished.at({"Generate", "error"})), 1);
}

TEST(SchedulerTest, LogitsThatAreNotNumbersFailTheirOwnGenerationOnly) {
  TinyLm model;
  model.nan_after = 5;
  Scheduler scheduler({}, model, Clock::Real());
  Call broken(Request({1, 5}, 10));
  Call other(Request({1, 6}, 1));
  ASSERT_THAT(scheduler.Submit(broken.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  EXPECT_THAT(broken.ReadAll().end->status, HasReasonOf(Reason::kInternal));
  EXPECT_THAT(other.ReadAll().end->status, IsOk());
}

TEST(SchedulerTest, CountsTokensAndTimes) {
  FakeClock clock;
  TinyLm model;
  model.on_forward = [&](const auto&) { clock.Advance(std::chrono::milliseconds(30)); };
  Scheduler scheduler({.prefill_tokens_max = 10}, model, clock);
  Call call(Request(Prompt(25, 0), 4));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  const SchedulerStats stats = scheduler.Stats();
  EXPECT_EQ(stats.steps, 6);  // three for the prompt, the last of which gives a token
  EXPECT_EQ(stats.prompt_tokens, 25);
  EXPECT_EQ(stats.generated_tokens, 4);
  EXPECT_EQ(stats.queue.sum, 0);
  EXPECT_EQ(stats.queue.counts[0], 1);
  EXPECT_NEAR(stats.time_to_first_token.sum, 0.09, 1e-9);
  EXPECT_NEAR(stats.inter_token.sum, 0.09, 1e-9);
  EXPECT_EQ(out.end->usage.queue_seconds, 0);
  EXPECT_NEAR(out.end->usage.time_to_first_token_seconds, 0.09, 1e-9);
  EXPECT_NEAR(out.end->usage.total_seconds, 0.18, 1e-9);
}

}  // namespace
}  // namespace modeld
