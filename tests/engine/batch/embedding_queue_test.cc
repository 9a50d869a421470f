#include "server/engine/batch/embedding_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <latch>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::ElementsAre;

using Lengths = std::vector<int64_t>;

TokenizedText TextOf(int64_t tokens) {
  return {.token_ids = std::vector<int64_t>(static_cast<size_t>(tokens), 1)};
}

// A queue whose vectors are the lengths of the texts. Passes wait until they are let on.
class Fixture {
 public:
  explicit Fixture(EmbeddingQueue::Options options = {})
      : queue_(
            options, [this](std::span<const TokenizedText* const> texts) { return Embed(texts); },
            clock_) {}
  ~Fixture() { LetOn(); }

  EmbeddingQueue& queue() { return queue_; }
  FakeClock& clock() { return clock_; }
  void LetOn() {
    if (!std::exchange(is_on_, true)) gate_.count_down();
  }
  // Until a pass has begun.
  void AwaitFirstPass() { first_pass_.wait(); }
  // Lengths of the texts of each pass; when nothing runs any more.
  const std::vector<Lengths>& passes() const { return passes_; }

  struct Call {
    std::shared_ptr<EmbeddingJob> job;
    std::future<absl::StatusOr<EmbeddingResult>> result;
    absl::Status submitted;
  };
  Call Submit(const Lengths& lengths, EmbeddingJob::Deadline deadline = {}) {
    std::vector<TokenizedText> texts;
    for (const int64_t length : lengths) texts.push_back(TextOf(length));
    auto promise = std::make_shared<std::promise<absl::StatusOr<EmbeddingResult>>>();
    Call call = {
        .job = std::make_shared<EmbeddingJob>(std::move(texts), deadline,
                                              [promise](absl::StatusOr<EmbeddingResult> result) {
                                                promise->set_value(std::move(result));
                                              }),
        .result = promise->get_future(),
        .submitted = {}};
    call.submitted = queue_.Submit(call.job);
    return call;
  }

 private:
  std::vector<std::vector<float>> Embed(std::span<const TokenizedText* const> texts) {
    if (passes_.empty()) first_pass_.count_down();
    Lengths lengths;
    std::vector<std::vector<float>> vectors;
    for (const TokenizedText* text : texts) {
      lengths.push_back(std::ssize(text->token_ids));
      vectors.push_back({static_cast<float>(lengths.back())});
    }
    passes_.push_back(lengths);
    gate_.wait();
    if (lengths.back() == 13) throw std::runtime_error("unlucky\nbacktrace");
    return vectors;
  }

  FakeClock clock_;
  std::latch gate_{1};
  std::latch first_pass_{1};
  bool is_on_ = false;
  std::vector<Lengths> passes_;  // of the queue's thread
  EmbeddingQueue queue_;         // last, so that its thread ends before what it uses
};

TEST(EmbeddingQueueTest, VectorsComeInTheOrderOfTheTexts) {
  Fixture fixture({.pass_tokens = 10});
  Fixture::Call call = fixture.Submit({7, 2, 9, 1, 4});
  fixture.LetOn();

  const absl::StatusOr<EmbeddingResult> result = call.result.get();

  ASSERT_THAT(result, IsOk());
  EXPECT_THAT(result->vectors, ElementsAre(ElementsAre(7), ElementsAre(2), ElementsAre(9),
                                           ElementsAre(1), ElementsAre(4)));
  EXPECT_EQ(result->usage.prompt_tokens, 23);
  // By length, no pass longer than ten tokens.
  EXPECT_THAT(fixture.passes(), ElementsAre(Lengths{1, 2, 4}, Lengths{7}, Lengths{9}));
}

TEST(EmbeddingQueueTest, AShortRequestDoesNotWaitForALongList) {
  Fixture fixture({.pass_tokens = 10});
  Fixture::Call first = fixture.Submit({1});
  fixture.AwaitFirstPass();
  Fixture::Call list = fixture.Submit(Lengths(50, 5));
  Fixture::Call single = fixture.Submit({5});
  fixture.LetOn();

  ASSERT_THAT(list.result.get(), IsOk());
  ASSERT_THAT(single.result.get(), IsOk());

  // The pass after the first one has a text of each.
  EXPECT_EQ(fixture.passes()[1], (Lengths{5, 5}));
  EXPECT_EQ(fixture.passes().size(), 1U + 1U + 25U);
}

TEST(EmbeddingQueueTest, ATextLongerThanAPassGoesAlone) {
  Fixture fixture({.pass_tokens = 10});
  Fixture::Call first = fixture.Submit({1});
  fixture.AwaitFirstPass();
  Fixture::Call call = fixture.Submit({40, 3});
  Fixture::Call other = fixture.Submit({2, 3});
  fixture.LetOn();

  ASSERT_THAT(call.result.get(), IsOk());
  ASSERT_THAT(other.result.get(), IsOk());
  EXPECT_THAT(fixture.passes(), ElementsAre(Lengths{1}, Lengths{2, 3, 3}, Lengths{40}));
}

TEST(EmbeddingQueueTest, ACancelledJobEndsWithoutAnotherPass) {
  Fixture fixture({.pass_tokens = 10});
  Fixture::Call first = fixture.Submit({1});
  fixture.AwaitFirstPass();
  Fixture::Call call = fixture.Submit({2});
  call.job->Cancel();
  fixture.LetOn();

  EXPECT_THAT(call.result.get(), StatusIs(absl::StatusCode::kCancelled));
  EXPECT_THAT(first.result.get(), IsOk());
  EXPECT_EQ(fixture.passes().size(), 1U);
}

TEST(EmbeddingQueueTest, AJobPastItsDeadlineEnds) {
  Fixture fixture;
  Fixture::Call first = fixture.Submit({1});
  fixture.AwaitFirstPass();
  Fixture::Call call = fixture.Submit({2}, fixture.clock().Steady() + std::chrono::seconds(1));
  fixture.clock().Advance(std::chrono::seconds(2));
  fixture.LetOn();

  EXPECT_THAT(call.result.get(), StatusIs(absl::StatusCode::kDeadlineExceeded));
}

TEST(EmbeddingQueueTest, MoreJobsThanMayWaitAreRefusedAndNeverCalledBack) {
  Fixture fixture({.waiting_max = 2});
  Fixture::Call first = fixture.Submit({1});
  Fixture::Call second = fixture.Submit({1});

  Fixture::Call third = fixture.Submit({1});

  EXPECT_THAT(third.submitted, HasReasonOf(Reason::kQueueFull));
  fixture.LetOn();
  EXPECT_THAT(first.result.get(), IsOk());
  EXPECT_THAT(second.result.get(), IsOk());
  EXPECT_EQ(third.result.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
}

TEST(EmbeddingQueueTest, AFailedPassEndsItsJobsAndNoOthers) {
  Fixture fixture({.pass_tokens = 20});
  Fixture::Call unlucky = fixture.Submit({13});
  fixture.AwaitFirstPass();
  Fixture::Call lucky = fixture.Submit({5});
  fixture.LetOn();

  const absl::StatusOr<EmbeddingResult> failed = unlucky.result.get();
  EXPECT_THAT(failed, HasReasonOf(Reason::kInternal));
  EXPECT_EQ(std::string(failed.status().message()).find("backtrace"), std::string::npos);
  EXPECT_THAT(lucky.result.get(), IsOk());
}

TEST(EmbeddingQueueTest, WhatWasDoneIsCounted) {
  Fixture fixture({.pass_tokens = 20});
  Fixture::Call good = fixture.Submit({3, 4});
  fixture.AwaitFirstPass();
  Fixture::Call bad = fixture.Submit({13});
  EXPECT_EQ(fixture.queue().Stats().active, 1);
  EXPECT_EQ(fixture.queue().Stats().waiting, 1);
  fixture.LetOn();
  ASSERT_THAT(good.result.get(), IsOk());
  ASSERT_FALSE(bad.result.get().ok());

  fixture.queue().Drain(std::chrono::seconds(10));
  const SchedulerStats stats = fixture.queue().Stats();

  EXPECT_EQ(stats.prompt_tokens, 7);
  EXPECT_EQ(stats.active, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.finished.at({"Embed", "stop"}), 1);
  EXPECT_EQ(stats.finished.at({"Embed", "error"}), 1);
}

TEST(EmbeddingQueueTest, DrainingWaitsAndRefusesWhatComesLater) {
  Fixture fixture;
  Fixture::Call call = fixture.Submit({3});
  fixture.LetOn();

  EXPECT_EQ(fixture.queue().Drain(std::chrono::minutes(1)), 0);

  EXPECT_THAT(call.result.get(), IsOk());
  EXPECT_THAT(fixture.Submit({1}).submitted, HasReasonOf(Reason::kModelNotReady));
}

TEST(EmbeddingQueueTest, DrainingCutsOffWhatDoesNotEndInTime) {
  Fixture fixture({.pass_tokens = 5});
  Fixture::Call call = fixture.Submit({5, 5});
  fixture.AwaitFirstPass();
  std::future<int64_t> cut_off =
      std::async(std::launch::async, [&] { return fixture.queue().Drain({}); });
  // Refusals begin with the draining.
  while (!HasReason(fixture.Submit({1}).submitted, Reason::kModelNotReady)) {
  }
  fixture.LetOn();

  EXPECT_GE(cut_off.get(), 1);
  EXPECT_THAT(call.result.get(), StatusIs(absl::StatusCode::kCancelled));
}

}  // namespace
}  // namespace modeld
