// Memory, queue and readers that do not last.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <random>
#include <vector>

#include "server/engine/batch/scheduler.h"
#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::ElementsAreArray;

TEST(SchedulerLimitsTest, SequencesThatDoNotFitTogetherTakeTurnsAndLoseNothing) {
  TinyLm model;
  model.kv_tokens = 100;
  Scheduler scheduler({}, model, Clock::Real());
  std::vector<std::unique_ptr<Call>> calls;
  for (int64_t i = 0; i < 5; ++i) {
    calls.push_back(std::make_unique<Call>(Request({i, i + 1, i + 2}, 60)));
    ASSERT_THAT(scheduler.Submit(calls.back()->generation()), IsOk());
  }

  for (const auto& call : calls) {
    const OutputPiece out = call->ReadAll();
    EXPECT_THAT(out.end->status, IsOk());
    EXPECT_THAT(out.token_ids,
                ElementsAreArray(TinyLm::Answer(call->generation()->request().prompt, 60)));
  }
  const SchedulerStats stats = scheduler.Stats();
  EXPECT_GT(stats.preemptions, 0);
  EXPECT_EQ(stats.prompt_tokens, 15);  // what is read a second time is not counted
  EXPECT_EQ(stats.kv_used_ratio, 0);
}

TEST(SchedulerLimitsTest, APromptThatCanNeverFitIsAnErrorAndTheNextOneRuns) {
  TinyLm model;
  model.kv_tokens = 20;
  Scheduler scheduler({}, model, Clock::Real());
  Call too_long(Request(std::vector<int64_t>(21, 1), 1));
  Call next(Request({1}, 5));
  ASSERT_THAT(scheduler.Submit(too_long.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(next.generation()), IsOk());

  EXPECT_THAT(too_long.ReadAll().end->status, HasReasonOf(Reason::kContextLengthExceeded));
  EXPECT_THAT(next.ReadAll().token_ids, ElementsAreArray(TinyLm::Answer({1}, 5)));
}

TEST(SchedulerLimitsTest, AnAnswerThatOutgrowsAllMemoryEndsWithLength) {
  TinyLm model;
  model.kv_tokens = 20;
  Scheduler scheduler({}, model, Clock::Real());
  Call call(Request({1, 2}, 1'000));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  const OutputPiece out = call.ReadAll();

  EXPECT_THAT(out.end->status, IsOk());
  EXPECT_EQ(out.end->reason, FinishReason::kLength);
  // 20 tokens have a state, the 21st came from the last of them.
  EXPECT_THAT(out.token_ids, ElementsAreArray(TinyLm::Answer({1, 2}, 19)));
}

TEST(SchedulerLimitsTest, ASlowReaderPausesOnlyItself) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest slow_request = Request({1}, 10);
  slow_request.unread_tokens_max = 4;
  Call slow(slow_request);
  Call other(Request({2}, 50));
  ASSERT_THAT(scheduler.Submit(slow.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  EXPECT_EQ(other.ReadAll().token_ids.size(), 50U);
  EXPECT_EQ(scheduler.Stats().generated_tokens, 54);

  EXPECT_THAT(slow.ReadAll().token_ids, ElementsAreArray(TinyLm::Answer({1}, 10)));
}

TEST(SchedulerLimitsTest, AReaderThatNeverComesCostsABoundedNumberOfTokensForEachChoice) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest slow_request = Drawn(Request({1}, 100), 3);
  slow_request.unread_tokens_max = 4;
  Call slow(slow_request);
  Call other(Request({2}, 50));
  ASSERT_THAT(scheduler.Submit(slow.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  EXPECT_EQ(other.ReadAll().token_ids.size(), 50U);
  EXPECT_EQ(scheduler.Stats().generated_tokens, 3 * 4 + 50);

  for (const OutputPiece& choice : slow.ReadChoices()) EXPECT_EQ(choice.token_ids.size(), 100U);
}

TEST(SchedulerLimitsTest, ASlowReaderGivesItsMemoryToThoseThatGoOn) {
  TinyLm model;
  model.kv_tokens = 60;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest slow_request = Request(std::vector<int64_t>(40, 3), 10);
  slow_request.unread_tokens_max = 4;
  Call slow(slow_request);
  ASSERT_THAT(scheduler.Submit(slow.generation()), IsOk());
  Call other(Request(std::vector<int64_t>(30, 2), 20));
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());

  EXPECT_EQ(other.ReadAll().token_ids.size(), 20U);

  EXPECT_THAT(slow.ReadAll().token_ids,
              ElementsAreArray(TinyLm::Answer(std::vector<int64_t>(40, 3), 10)));
  EXPECT_EQ(scheduler.Stats().preemptions, 1);
}

TEST(SchedulerLimitsTest, ACancelledSlowReaderEnds) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Request({1}, 1'000);
  request.unread_tokens_max = 1;
  Call slow(request);
  ASSERT_THAT(scheduler.Submit(slow.generation()), IsOk());
  slow.ReadSome();

  slow.generation()->Cancel();

  EXPECT_THAT(slow.ReadAll().end->status, StatusIs(absl::StatusCode::kCancelled));
}

// One run: a request that ends before its time at the `moment`-th step, another that goes on. The
// ends: its caller cancels from another thread, its connection breaks while a step runs, its
// deadline passes.
enum class EarlyEnd { kCancelled, kDisconnected, kDeadline };

void ExpectStateFreedWithinOneStep(EarlyEnd kind, int64_t moment, const Sampling& sampling) {
  constexpr int64_t kMarker = 60;  // begins the prompt of the one that ends early
  FakeClock clock;
  // It goes on, and at last pauses, until the end comes, however late that is.
  GenerationRequest request = Request(std::vector<int64_t>(100, kMarker), 0);
  request.sampling = sampling;
  request.sampling.max_tokens = 1'000'000;
  request.unread_tokens_max = 10'000;
  if (kind == EarlyEnd::kDeadline) {
    request.deadline = clock.Steady() + std::chrono::seconds(moment);
  }
  Call early(request);
  std::latch moment_came(1);
  std::atomic<int64_t> steps = 0;
  std::atomic<int64_t> last_step_with_it = 0;
  TinyLm model;
  model.kv_tokens = 10'000'000;
  model.on_forward = [&](const std::vector<Segment>& segments) {
    clock.Advance(std::chrono::seconds(1));
    ++steps;
    for (const Segment& segment : segments) {
      const auto& state = static_cast<const TinyLm::State&>(*segment.state);
      const int64_t first = state.tokens.empty() ? segment.token_ids[0] : state.tokens[0];
      if (first == kMarker) last_step_with_it = steps.load();
    }
    if (steps != moment) return;
    if (kind == EarlyEnd::kDisconnected) early.generation()->Cancel();
    moment_came.count_down();
  };
  Scheduler scheduler({.prefill_tokens_max = 8}, model, clock);
  Call other(Request({2}, 120));
  ASSERT_THAT(scheduler.Submit(early.generation()), IsOk());
  ASSERT_THAT(scheduler.Submit(other.generation()), IsOk());
  moment_came.wait();

  if (kind == EarlyEnd::kCancelled) early.generation()->Cancel();
  const int64_t steps_at_end = kind == EarlyEnd::kCancelled ? steps.load() : moment;
  const OutputPiece out = early.ReadAll();
  const SchedulerStats stats_at_end = scheduler.Stats();

  EXPECT_THAT(out.end->status,
              StatusIs(kind == EarlyEnd::kDeadline ? absl::StatusCode::kDeadlineExceeded
                                                   : absl::StatusCode::kCancelled));
  EXPECT_EQ(out.end->reason, FinishReason::kCancelled);
  EXPECT_LE(last_step_with_it, steps_at_end + 1);
  EXPECT_LE(stats_at_end.active + stats_at_end.waiting, 1);
  EXPECT_THAT(other.ReadAll().token_ids, ElementsAreArray(TinyLm::Answer({2}, 120)));
  const SchedulerStats stats = scheduler.Stats();
  EXPECT_EQ(stats.active, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.kv_used_ratio, 0);
  EXPECT_EQ((stats.finished.at({"Generate", "cancelled"})), 1);
  EXPECT_EQ((stats.finished.at({"Generate", "length"})), 1);
}

// The first 13 steps read the prompt.
void ExpectStatesFreedAtAnyMoment(const Sampling& sampling) {
  std::mt19937 random(7);
  for (int i = 0; i < 100; ++i) {
    const auto kind = static_cast<EarlyEnd>(i % 3);
    const auto moment = static_cast<int64_t>(1 + random() % 60);
    SCOPED_TRACE(testing::Message() << "end " << i % 3 << " at step " << moment);
    ExpectStateFreedWithinOneStep(kind, moment, sampling);
  }
}

TEST(SchedulerLimitsTest, AnEarlyEndAtAnyMomentFreesTheStateWithinOneStep) {
  ExpectStatesFreedAtAnyMoment({});
}

TEST(SchedulerLimitsTest, AnEarlyEndOfManyChoicesFreesAllTheirStatesWithinOneStep) {
  ExpectStatesFreedAtAnyMoment({.greedy = false, .seed = 5, .n = 5, .best_of = 5});
}

TEST(SchedulerLimitsTest, AnEarlyEndOfABeamSearchFreesAllItsStatesWithinOneStep) {
  ExpectStatesFreedAtAnyMoment({.n = 2, .best_of = 2, .num_beams = 4});
}

TEST(SchedulerLimitsTest, AFullQueueRefuses) {
  std::latch in_forward(1);
  std::latch go_on(1);
  TinyLm model;
  model.on_forward = [&, first = true](const auto&) mutable {
    if (std::exchange(first, false)) {
      in_forward.count_down();
      go_on.wait();
    }
  };
  Scheduler scheduler({.sequences_max = 1, .waiting_max = 1}, model, Clock::Real());
  Call running(Request({1}, 2));
  Call waiting(Request({2}, 2));
  Call refused(Request({3}, 2));
  ASSERT_THAT(scheduler.Submit(running.generation()), IsOk());
  in_forward.wait();
  ASSERT_THAT(scheduler.Submit(waiting.generation()), IsOk());

  EXPECT_THAT(scheduler.Submit(refused.generation()), HasReasonOf(Reason::kQueueFull));

  EXPECT_EQ(scheduler.Stats().active, 1);
  EXPECT_EQ(scheduler.Stats().waiting, 1);
  go_on.count_down();
  EXPECT_EQ(running.ReadAll().token_ids.size(), 2U);
  EXPECT_EQ(waiting.ReadAll().token_ids.size(), 2U);
}

TEST(SchedulerLimitsTest, DrainCutsOffWhatDoesNotEndInTimeAndRefusesNewRequests) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  GenerationRequest request = Request({1}, 1'000);
  request.unread_tokens_max = 1;  // its reader never comes
  Call stuck(request);
  ASSERT_THAT(scheduler.Submit(stuck.generation()), IsOk());

  EXPECT_EQ(scheduler.Drain(std::chrono::milliseconds(0)), 1);

  const OutputPiece out = stuck.ReadAll();
  EXPECT_THAT(out.end->status, IsOk());
  EXPECT_EQ(out.end->reason, FinishReason::kCancelled);
  Call late(Request({1}, 1));
  EXPECT_THAT(scheduler.Submit(late.generation()), HasReasonOf(Reason::kModelNotReady));
}

TEST(SchedulerLimitsTest, DrainWaitsForWhatEnds) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  Call call(Request({1}, 20));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  EXPECT_EQ(scheduler.Drain(std::chrono::hours(1)), 0);

  EXPECT_EQ(call.ReadAll().end->reason, FinishReason::kLength);
}

TEST(SchedulerLimitsTest, TheEndOfTheSchedulerEndsEveryGeneration) {
  TinyLm model;
  GenerationRequest request = Request({1}, 1'000);
  request.unread_tokens_max = 1;
  Call running(request);
  {
    Scheduler scheduler({}, model, Clock::Real());
    ASSERT_THAT(scheduler.Submit(running.generation()), IsOk());
  }

  EXPECT_EQ(running.ReadAll().end->reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace modeld
