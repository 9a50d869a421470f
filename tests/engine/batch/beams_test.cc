// Beam search, from the request to the choices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/engine/batch/scheduler.h"
#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::IsEmpty;

constexpr int64_t kVocab = 37;

// The formula of tests/goldens/make_beams.py.
std::vector<float> TableRow(const std::vector<int64_t>& tokens) {
  const int64_t a = tokens[tokens.size() - 2];
  const int64_t b = tokens.back();
  std::vector<float> row;
  for (int64_t t = 0; t < kVocab; ++t) {
    const int64_t hash = (a * 7919 + b * 104729 + t * 1299709 + a * b * t) % 1021;
    row.push_back(static_cast<float>(static_cast<double>(hash) / 128.0));
  }
  return row;
}

std::unique_ptr<TinyLm> TableLm() {
  auto model = std::make_unique<TinyLm>();
  model->vocab = kVocab;
  model->row_after = TableRow;
  return model;
}

GenerationRequest BeamRequest(std::vector<int64_t> prompt, int64_t max_tokens, int num_beams,
                              int n) {
  GenerationRequest request = Request(std::move(prompt), max_tokens);
  request.sampling.num_beams = num_beams;
  request.sampling.n = n;
  request.sampling.best_of = n;
  return request;
}

std::vector<OutputPiece> AnswersOf(TinyLm& model, const GenerationRequest& request) {
  Scheduler scheduler({}, model, Clock::Real());
  Call call(request);
  EXPECT_THAT(scheduler.Submit(call.generation()), IsOk());
  std::vector<OutputPiece> choices = call.ReadChoices();
  EXPECT_EQ(scheduler.Stats().kv_used_ratio, 0);
  return choices;
}

EarlyStopping EarlyStoppingOf(const std::string& text) {
  if (text == "never") return EarlyStopping::kNever;
  return text == "true" ? EarlyStopping::kYes : EarlyStopping::kNo;
}

GenerationRequest RequestOf(const nlohmann::json& golden) {
  GenerationRequest request = BeamRequest(golden["prompt"], golden["max_new_tokens"],
                                          golden["num_beams"], golden["num_return_sequences"]);
  request.eos_token_ids = golden["eos_token_id"].get<std::vector<int64_t>>();
  request.sampling.length_penalty = golden["length_penalty"];
  request.sampling.early_stopping = EarlyStoppingOf(golden["early_stopping"]);
  request.sampling.repetition_penalty = golden.value("repetition_penalty", 1.0);
  request.sampling.min_tokens = golden.value("min_new_tokens", 0);
  return request;
}

TEST(BeamsTest, TextsAndScoresAreThoseOfTransformers) {
  std::ifstream file(MODELD_TEST_DATA "/sampling/beams.json");
  const nlohmann::json goldens = nlohmann::json::parse(file);
  ASSERT_EQ(goldens["cases"].size(), 200U);
  const std::unique_ptr<TinyLm> model = TableLm();
  for (const nlohmann::json& golden : goldens["cases"]) {
    SCOPED_TRACE(golden.dump());

    const std::vector<OutputPiece> choices = AnswersOf(*model, RequestOf(golden));

    ASSERT_EQ(choices.size(), golden["sequences"].size());
    for (size_t i = 0; i < choices.size(); ++i) {
      EXPECT_EQ(choices[i].token_ids, golden["sequences"][i].get<std::vector<int64_t>>());
      ASSERT_TRUE(choices[i].end);
      const double score = golden["scores"][i];
      EXPECT_NEAR(choices[i].end->score.value_or(0), score, 1e-5 * std::max(1.0, -score));
    }
  }
}

TEST(BeamsTest, AnEndHasItsTokenAndNoText) {
  const std::unique_ptr<TinyLm> model = TableLm();
  GenerationRequest request = BeamRequest({3, 5}, 40, 4, 4);
  request.eos_token_ids = {7, 9, 11, 13};

  for (const OutputPiece& choice : AnswersOf(*model, request)) {
    ASSERT_TRUE(choice.end);
    std::string text;
    const bool ended = choice.end->reason == FinishReason::kStop;
    for (size_t i = 0; i + (ended ? 1 : 0) < choice.token_ids.size(); ++i) {
      text += "<" + std::to_string(choice.token_ids[i]) + ">";
    }
    EXPECT_EQ(choice.text, text);
    if (ended) {
      EXPECT_EQ(choice.end->stop_token_id, choice.token_ids.back());
    }
  }
}

TEST(BeamsTest, LogprobsAddUpToTheScore) {
  const std::unique_ptr<TinyLm> model = TableLm();
  GenerationRequest request = BeamRequest({3, 5}, 10, 3, 3);
  request.sampling.logprobs = 1;
  request.sampling.length_penalty = 0;

  for (const OutputPiece& choice : AnswersOf(*model, request)) {
    ASSERT_EQ(choice.logprobs.size(), 10U);
    double sum = 0;
    for (size_t i = 0; i < 10; ++i) {
      EXPECT_EQ(choice.logprobs[i].chosen.token_id, choice.token_ids[i]);
      EXPECT_EQ(choice.logprobs[i].top.size(), 1U);
      sum += choice.logprobs[i].chosen.logprob;
    }
    EXPECT_NEAR(choice.end->score.value_or(0), sum, 1e-4);
  }
}

// An older request takes the memory that the beams have.
TEST(BeamsTest, BeamsThatLoseTheirStatesFindTheSame) {
  const std::unique_ptr<TinyLm> model = TableLm();
  const GenerationRequest request = BeamRequest(std::vector<int64_t>(20, 3), 30, 4, 4);
  const std::vector<OutputPiece> expected = AnswersOf(*model, request);
  for (const int64_t kv_tokens : {100, 110, 120}) {
    SCOPED_TRACE(kv_tokens);
    model->kv_tokens = kv_tokens;
    Scheduler scheduler({}, *model, Clock::Real());
    Call older(Request(std::vector<int64_t>(60, 1), 25));
    Call beams(request);
    ASSERT_THAT(scheduler.Submit(older.generation()), IsOk());
    ASSERT_THAT(scheduler.Submit(beams.generation()), IsOk());

    const std::vector<OutputPiece> choices = beams.ReadChoices();

    ASSERT_EQ(choices.size(), 4U);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(choices[i].token_ids, expected[i].token_ids);
    EXPECT_EQ(older.ReadAll().token_ids.size(), 25U);
    EXPECT_GT(scheduler.Stats().preemptions, 0);
    EXPECT_EQ(scheduler.Stats().prompt_tokens, 60 + 20);
    EXPECT_EQ(scheduler.Stats().kv_used_ratio, 0);
  }
}

TEST(BeamsTest, BeamsThatOutgrowAllMemoryAnswerWhatTheyHaveFound) {
  const std::unique_ptr<TinyLm> model = TableLm();
  model->kv_tokens = 60;

  const std::vector<OutputPiece> choices =
      AnswersOf(*model, BeamRequest(std::vector<int64_t>(20, 3), 1'000, 4, 2));

  for (const OutputPiece& choice : choices) {
    ASSERT_TRUE(choice.end);
    EXPECT_THAT(choice.end->status, IsOk());
    EXPECT_EQ(choice.end->reason, FinishReason::kLength);
    EXPECT_GT(choice.token_ids.size(), 5U);
  }
}

TEST(BeamsTest, FewerContinuationsThanChoicesAreAnError) {
  const std::unique_ptr<TinyLm> model = TableLm();
  GenerationRequest request = BeamRequest({3, 5}, 1, 4, 3);
  request.sampling.allowed_token_ids = {4, 6};

  const std::vector<OutputPiece> choices = AnswersOf(*model, request);

  EXPECT_THAT(choices[0].end->status, NamesField("sampling.n"));
}

TEST(BeamsTest, AFailedStepFailsTheSearch) {
  const std::unique_ptr<TinyLm> model = TableLm();
  model->row_after = [](const std::vector<int64_t>& tokens) {
    std::vector<float> row = TableRow(tokens);
    if (tokens.size() > 6) row[4] = NAN;
    return row;
  };
  Scheduler scheduler({}, *model, Clock::Real());
  Call call(BeamRequest({3, 5}, 30, 4, 2));
  ASSERT_THAT(scheduler.Submit(call.generation()), IsOk());

  for (const OutputPiece& choice : call.ReadChoices()) {
    EXPECT_THAT(choice.end->status, HasReasonOf(Reason::kInternal));
    EXPECT_THAT(choice.token_ids, IsEmpty());
  }
  EXPECT_EQ((scheduler.Stats().finished.at({"Generate", "error"})), 1);
  EXPECT_EQ(scheduler.Stats().active + scheduler.Stats().waiting, 0);
}

}  // namespace
}  // namespace modeld
