#include "server/engine/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/wire/status_wire.h"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::Not;

class InferenceServiceTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    engine_ = std::make_unique<EngineProcess>();
    ASSERT_THAT(engine_->Load("tiny-llama").status, IsOk());
  }
  static void TearDownTestSuite() { engine_.reset(); }

  static modeld::v1::GenerateRequest Request(const std::vector<int64_t>& ids, int64_t max_tokens) {
    modeld::v1::GenerateRequest request;
    request.mutable_token_ids()->Assign(ids.begin(), ids.end());
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    return request;
  }

  static modeld::v1::ChatRequest ChatOf(const std::string& content, int64_t max_tokens) {
    modeld::v1::ChatRequest request;
    modeld::v1::ChatMessage& message = *request.add_messages();
    message.set_role("user");
    message.set_content(content);
    request.mutable_sampling()->set_max_tokens(max_tokens);
    request.mutable_sampling()->set_ignore_eos(true);
    return request;
  }

  static std::unique_ptr<EngineProcess> engine_;
};

std::unique_ptr<EngineProcess> InferenceServiceTest::engine_;

TEST_F(InferenceServiceTest, GreedyTokensAreThoseOfTransformersAllAtOnce) {
  std::ifstream file(std::string(MODELD_TEST_MODELS) + "/tiny-llama/goldens.json");
  const nlohmann::json goldens = nlohmann::json::parse(file);
  const auto prompts = goldens["prompts"].get<std::vector<std::vector<int64_t>>>();
  const auto expected = goldens["greedy"].get<std::vector<std::vector<int64_t>>>();
  std::vector<EngineProcess::Answer> answers(prompts.size());
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < prompts.size(); ++i) {
      threads.emplace_back(
          [&, i] { answers[i] = engine_->Generate(Request(prompts[i], std::ssize(expected[i]))); });
    }
  }

  for (size_t i = 0; i < prompts.size(); ++i) {
    ASSERT_THAT(answers[i].status, IsOk());
    EXPECT_THAT(answers[i].all.token_ids(), ElementsAreArray(expected[i]));
    EXPECT_EQ(answers[i].all.finish_reason(), modeld::v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(answers[i].all.usage().prompt_tokens(), std::ssize(prompts[i]));
    EXPECT_EQ(answers[i].all.usage().generated_tokens(), std::ssize(expected[i]));
    EXPECT_GT(answers[i].all.usage().total_seconds(), 0);
  }
}

TEST_F(InferenceServiceTest, TheTextOfAStreamIsThatOfItsTokens) {
  const EngineProcess::Answer answer = engine_->Generate(Request({5, 38, 193}, 60));
  ASSERT_THAT(answer.status, IsOk());
  modeld::v1::DetokenizeRequest request;
  *request.mutable_token_ids() = answer.all.token_ids();
  request.set_skip_special_tokens(true);
  modeld::v1::DetokenizeResponse response;
  grpc::ClientContext context;

  ASSERT_TRUE(engine_->inference().Detokenize(&context, request, &response).ok());

  EXPECT_EQ(answer.all.text(), response.text());
}

TEST_F(InferenceServiceTest, LogprobsComeWithEachToken) {
  modeld::v1::GenerateRequest request = Request({73}, 5);
  request.mutable_sampling()->set_logprobs(3);

  const EngineProcess::Answer answer = engine_->Generate(request);

  ASSERT_THAT(answer.status, IsOk());
  ASSERT_EQ(answer.all.logprobs_size(), 5);
  for (int i = 0; i < 5; ++i) {
    const modeld::v1::TokenLogprobs& position = answer.all.logprobs(i);
    EXPECT_EQ(position.chosen().token_id(), answer.all.token_ids(i));
    ASSERT_EQ(position.top_size(), 3);
    EXPECT_EQ(position.top(0).token_id(), answer.all.token_ids(i));  // greedy
    EXPECT_LE(position.top(1).logprob(), position.top(0).logprob());
    EXPECT_LT(position.chosen().logprob(), 0);
  }
}

TEST_F(InferenceServiceTest, ChatContinuesThePromptOfApplyChatTemplate) {
  const modeld::v1::ChatRequest chat = ChatOf("hello there", 12);
  modeld::v1::ApplyChatTemplateRequest apply;
  *apply.mutable_messages() = chat.messages();
  modeld::v1::ApplyChatTemplateResponse prompt;
  grpc::ClientContext context;
  ASSERT_TRUE(engine_->inference().ApplyChatTemplate(&context, apply, &prompt).ok());

  const EngineProcess::Answer chat_answer = engine_->Chat(chat);
  const EngineProcess::Answer answer =
      engine_->Generate(Request({prompt.token_ids().begin(), prompt.token_ids().end()}, 12));

  EXPECT_EQ(prompt.prompt(), "<|im_start|>user\nhello there<|im_end|>\n<|im_start|>assistant\n");
  ASSERT_THAT(chat_answer.status, IsOk());
  EXPECT_THAT(chat_answer.all.token_ids(), ElementsAreArray(answer.all.token_ids()));
}

TEST_F(InferenceServiceTest, DetokenizeUndoesTokenize) {
  modeld::v1::TokenizeRequest request;
  request.set_text("na\u00efve \u20ac5, twice");
  modeld::v1::TokenizeResponse tokens;
  grpc::ClientContext tokenize;
  ASSERT_TRUE(engine_->inference().Tokenize(&tokenize, request, &tokens).ok());
  modeld::v1::DetokenizeRequest back;
  *back.mutable_token_ids() = tokens.token_ids();
  modeld::v1::DetokenizeResponse text;
  grpc::ClientContext detokenize;
  ASSERT_TRUE(engine_->inference().Detokenize(&detokenize, back, &text).ok());

  EXPECT_EQ(text.text(), request.text());
  EXPECT_EQ(tokens.tokens_size(), tokens.token_ids_size());
}

TEST_F(InferenceServiceTest, ExactlyOneOfPromptAndTokenIdsIsRequired) {
  EXPECT_THAT(engine_->Generate(Request({}, 1)).status, NamesField("prompt"));

  modeld::v1::GenerateRequest both = Request({1}, 1);
  both.set_prompt("text");
  EXPECT_THAT(engine_->Generate(both).status, NamesField("prompt"));
}

TEST_F(InferenceServiceTest, TokensOutsideTheVocabularyAreNamed) {
  EXPECT_THAT(engine_->Generate(Request({1, 320}, 1)).status, NamesField("token_ids"));
  EXPECT_THAT(engine_->Generate(Request({-1}, 1)).status, NamesField("token_ids"));
}

TEST_F(InferenceServiceTest, SamplingOutOfRangeIsNamed) {
  modeld::v1::GenerateRequest request = Request({1}, 1);
  request.mutable_sampling()->set_top_p(1.5);

  EXPECT_THAT(engine_->Generate(request).status, NamesField("sampling.top_p"));
}

TEST_F(InferenceServiceTest, TokensOfSamplingOutsideTheVocabularyAreNamed) {
  modeld::v1::GenerateRequest bias = Request({1}, 1);
  (*bias.mutable_sampling()->mutable_logit_bias())[320] = 1;
  modeld::v1::GenerateRequest allowed = Request({1}, 1);
  allowed.mutable_sampling()->add_allowed_token_ids(-1);
  modeld::v1::GenerateRequest stop = Request({1}, 1);
  stop.mutable_sampling()->add_stop_token_ids(320);

  EXPECT_THAT(engine_->Generate(bias).status, NamesField("sampling.logit_bias"));
  EXPECT_THAT(engine_->Generate(allowed).status, NamesField("sampling.allowed_token_ids"));
  EXPECT_THAT(engine_->Generate(stop).status, NamesField("sampling.stop_token_ids"));
}

TEST_F(InferenceServiceTest, OnlyAllowedTokensAreChosenAndAStopTokenIsNamed) {
  modeld::v1::GenerateRequest request = Request({5, 38}, 20);
  for (const int64_t id : {17, 42}) request.mutable_sampling()->add_allowed_token_ids(id);
  request.mutable_sampling()->set_repetition_penalty(100);
  request.mutable_sampling()->add_stop_token_ids(42);

  const EngineProcess::Answer answer = engine_->Generate(request);

  ASSERT_THAT(answer.status, IsOk());
  EXPECT_EQ(answer.all.finish_reason(), modeld::v1::FINISH_REASON_STOP);
  EXPECT_EQ(answer.all.stop_token_id(), 42);
  for (const int64_t id : answer.all.token_ids()) EXPECT_TRUE(id == 17 || id == 42) << id;
}

TEST_F(InferenceServiceTest, ABadWordIsNotInTheAnswer) {
  const EngineProcess::Answer before = engine_->Generate(Request({5, 38, 193}, 60));
  ASSERT_THAT(before.status, IsOk());
  const std::string& text = before.all.text();
  const auto letter = std::ranges::find_if(text, [](char c) { return c >= 'a' && c <= 'z'; });
  ASSERT_NE(letter, text.end());
  const std::string word(1, *letter);
  modeld::v1::TokenizeRequest tokenize;
  tokenize.set_text(word);
  modeld::v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  ASSERT_TRUE(engine_->inference().Tokenize(&context, tokenize, &tokens).ok());
  ASSERT_EQ(tokens.token_ids_size(), 1);
  modeld::v1::GenerateRequest request = Request({5, 38, 193}, 60);
  request.mutable_sampling()->add_bad_words(word);
  (*request.mutable_sampling()->mutable_logit_bias())[tokens.token_ids(0)] = 100;
  modeld::v1::GenerateRequest biased = request;
  biased.mutable_sampling()->clear_bad_words();

  const EngineProcess::Answer without = engine_->Generate(request);

  ASSERT_THAT(without.status, IsOk());
  EXPECT_THAT(without.all.token_ids(), Not(Contains(tokens.token_ids(0)))) << word;
  EXPECT_THAT(engine_->Generate(biased).all.token_ids(), Each(tokens.token_ids(0))) << word;
}

TEST_F(InferenceServiceTest, WhatExceedsTheContextIsRefused) {
  EXPECT_THAT(engine_->Generate(Request({1, 2}, 2047)).status,
              HasReasonOf(Reason::kContextLengthExceeded));

  modeld::v1::GenerateRequest huge;
  huge.set_prompt(std::string(32 << 20, 'a'));
  EXPECT_THAT(engine_->Generate(huge).status, HasReasonOf(Reason::kContextLengthExceeded));
}

TEST_F(InferenceServiceTest, BadMessagesAreNamed) {
  EXPECT_THAT(engine_->Chat({}).status, NamesField("messages"));

  modeld::v1::ChatRequest no_object = ChatOf("x", 1);
  no_object.mutable_messages(0)->add_tool_calls()->set_arguments_json("[1]");
  EXPECT_THAT(engine_->Chat(no_object).status,
              NamesField("messages[0].tool_calls[0].arguments_json"));

  modeld::v1::ChatRequest too_deep = ChatOf("x", 1);
  too_deep.set_template_args_json(std::string(1'000'000, '['));
  EXPECT_THAT(engine_->Chat(too_deep).status, NamesField("template_args_json"));
}

TEST_F(InferenceServiceTest, EmbedIsNotSupported) {
  grpc::ClientContext context;
  modeld::v1::EmbedResponse response;

  const grpc::Status status = engine_->inference().Embed(&context, {}, &response);

  EXPECT_THAT(FromGrpcStatus(status), HasReasonOf(Reason::kMethodNotSupported));
}

TEST_F(InferenceServiceTest, ACancelledCallStopsTheWork) {
  const auto cancelled = [&] {
    const modeld::engine::v1::StatsResponse stats = engine_->StatsNow();
    for (const auto& finished : stats.finished()) {
      if (finished.finish_reason() == "cancelled") return finished.count();
    }
    return int64_t{0};
  };
  const int64_t before = cancelled();
  grpc::ClientContext context;
  const auto stream = engine_->inference().Generate(&context, Request({73}, 2000));
  modeld::v1::GenerateResponse message;
  ASSERT_TRUE(stream->Read(&message));

  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);

  // Each round is a call to the engine; the cancelled stream was sent before them.
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (cancelled() == before && std::chrono::steady_clock::now() < give_up) {
  }
  EXPECT_EQ(cancelled(), before + 1);
  EXPECT_EQ(engine_->StatsNow().active_requests(), 0);
}

TEST_F(InferenceServiceTest, ADeadlineEndsTheCall) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(30));
  const auto stream = engine_->inference().Generate(&context, Request({73}, 2000));
  modeld::v1::GenerateResponse message;
  while (stream->Read(&message)) {
  }

  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST(InferenceBeforeLoadTest, EveryMethodSaysThatNoModelIsReady) {
  EngineProcess engine;
  modeld::v1::GenerateRequest request;
  request.set_prompt("hello");
  modeld::v1::TokenizeResponse response;
  grpc::ClientContext context;

  EXPECT_THAT(engine.Generate(request).status, HasReasonOf(Reason::kModelNotReady));
  EXPECT_THAT(engine.Chat({}).status, HasReasonOf(Reason::kModelNotReady));
  EXPECT_THAT(FromGrpcStatus(engine.inference().Tokenize(&context, {}, &response)),
              HasReasonOf(Reason::kModelNotReady));
}

}  // namespace
}  // namespace modeld
