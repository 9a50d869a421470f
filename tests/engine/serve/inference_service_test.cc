#include "server/engine/inference_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/engine/text/tokenizer.h"
#include "server/wire/status_wire.h"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::Contains;
using ::testing::Each;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;
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

TEST_F(InferenceServiceTest, LogprobsOfThePromptAreThoseThatItsTokensHadWhenTheyWereGenerated) {
  modeld::v1::GenerateRequest request = Request({73, 5, 38}, 100);
  request.mutable_sampling()->set_logprobs(2);
  const EngineProcess::Answer generated = engine_->Generate(request);
  ASSERT_THAT(generated.status, IsOk());
  request.mutable_token_ids()->MergeFrom(generated.all.token_ids());
  request.mutable_sampling()->set_max_tokens(0);
  request.mutable_sampling()->clear_logprobs();
  request.mutable_sampling()->set_prompt_logprobs(2);

  const EngineProcess::Answer scored = engine_->Generate(request);

  ASSERT_THAT(scored.status, IsOk());
  EXPECT_EQ(scored.all.finish_reason(), modeld::v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(scored.all.token_ids_size(), 0);
  ASSERT_EQ(scored.all.prompt_logprobs_size(), 102);
  for (int i = 0; i < 100; ++i) {
    const modeld::v1::TokenLogprobs& expected = generated.all.logprobs(i);
    const modeld::v1::TokenLogprobs& position = scored.all.prompt_logprobs(i + 2);
    EXPECT_EQ(position.chosen().token_id(), expected.chosen().token_id());
    EXPECT_EQ(position.chosen().token(), expected.chosen().token());
    EXPECT_NEAR(position.chosen().logprob(), expected.chosen().logprob(), 1e-4);
    ASSERT_EQ(position.top_size(), 2);
    EXPECT_NEAR(position.top(1).logprob(), expected.top(1).logprob(), 1e-4);
  }
}

TEST_F(InferenceServiceTest, NoNewTokensAreOnlyOfUseWithWhatIsSaidOfThePrompt) {
  EXPECT_THAT(engine_->Generate(Request({1}, 0)).status, NamesField("sampling.max_tokens"));
}

TEST_F(InferenceServiceTest, EachChoiceHasItsIndexItsOwnTextAndTheEcho) {
  modeld::v1::GenerateRequest request;
  request.set_prompt("hello there");
  request.set_echo(true);
  request.mutable_sampling()->set_max_tokens(40);
  request.mutable_sampling()->set_ignore_eos(true);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_sampling()->set_n(3);
  std::vector<modeld::v1::GenerateResponse> choices(3);
  std::vector<std::string> texts(3);
  std::vector<modeld::v1::GenerateResponse> messages;
  grpc::ClientContext context;

  const auto stream = engine_->inference().Generate(&context, request);
  for (modeld::v1::GenerateResponse message; stream->Read(&message);) {
    ASSERT_LT(message.index(), 3);
    choices[message.index()].MergeFrom(message);
    texts[message.index()] += message.text();
    messages.push_back(message);
  }
  ASSERT_TRUE(stream->Finish().ok());

  EXPECT_GT(messages.front().prompt_token_ids_size(), 0);
  for (const auto& choice : choices) {
    EXPECT_EQ(choice.finish_reason(), modeld::v1::FINISH_REASON_LENGTH);
    EXPECT_EQ(choice.token_ids_size(), 40);
    EXPECT_TRUE(texts[choice.index()].starts_with("hello there")) << texts[choice.index()];
    EXPECT_NE(texts[choice.index()], texts[(choice.index() + 1) % 3]);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    EXPECT_EQ(messages[i].has_usage(), i + 1 == messages.size());
  }
  EXPECT_EQ(messages.back().usage().prompt_tokens(), messages.front().prompt_token_ids_size());
  EXPECT_EQ(messages.back().usage().generated_tokens(), 3 * 40);
}

TEST_F(InferenceServiceTest, BeamSearchAnswersItsBestTextsInOrder) {
  modeld::v1::GenerateRequest request = Request({5, 38, 193}, 12);
  request.mutable_sampling()->set_num_beams(4);
  request.mutable_sampling()->set_n(2);
  request.mutable_sampling()->set_logprobs(0);
  std::vector<modeld::v1::GenerateResponse> choices;
  grpc::ClientContext context;

  const auto stream = engine_->inference().Generate(&context, request);
  for (modeld::v1::GenerateResponse message; stream->Read(&message);) choices.push_back(message);
  ASSERT_TRUE(stream->Finish().ok());

  ASSERT_EQ(choices.size(), 2U);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(choices[i].index(), i);
    ASSERT_EQ(choices[i].logprobs_size(), 12);
    double sum = 0;
    for (const auto& position : choices[i].logprobs()) sum += position.chosen().logprob();
    EXPECT_NEAR(choices[i].score(), sum / 12, 1e-5);
  }
  EXPECT_GE(choices[0].score(), choices[1].score());
  EXPECT_EQ(choices[1].usage().generated_tokens(), 4 * 12);
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

// 1,900 messages of a token would be about 1 MB; what is on the way to a reader that does not come
// is one window of HTTP/2, one message and what the generation keeps before it pauses.
TEST_F(InferenceServiceTest, AClientThatDoesNotReadCostsBoundedMemoryAndNobodyElseWaits) {
  modeld::v1::GenerateRequest unread = Request({73}, 1900);
  unread.mutable_sampling()->set_logprobs(20);
  const int64_t before = engine_->StatsNow().generated_tokens_total();
  grpc::ClientContext context;
  const auto stream = engine_->inference().Generate(&context, unread);

  const EngineProcess::Answer other = engine_->Generate(Request({5}, 1900));

  ASSERT_THAT(other.status, IsOk());
  const int64_t made = engine_->StatsNow().generated_tokens_total() - before - 1900;
  EXPECT_LT(made, 1200);
  int64_t read = 0;
  for (modeld::v1::GenerateResponse message; stream->Read(&message);) {
    read += message.token_ids_size();
  }
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(read, 1900);
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

TEST_F(InferenceServiceTest, AModelThatGeneratesTextRefusesEmbed) {
  grpc::ClientContext context;
  modeld::v1::EmbedRequest request;
  request.add_inputs("hello");
  modeld::v1::EmbedResponse response;

  const grpc::Status status = engine_->inference().Embed(&context, request, &response);

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

// 45 tokens, of which two blocks of 16 can be used again.
modeld::v1::GenerateRequest LongPrompt() {
  modeld::v1::GenerateRequest request;
  for (int id = 0; id < 45; ++id) request.add_token_ids(70 + id % 7);
  request.mutable_sampling()->set_max_tokens(8);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

TEST(PrefixCacheTest, APromptThatBeginsLikeAnEarlierOneIsReadFromThereOn) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  const EngineProcess::Answer first = engine.Generate(LongPrompt());
  const EngineProcess::Answer again = engine.Generate(LongPrompt());
  modeld::v1::GenerateRequest other_end = LongPrompt();
  other_end.set_token_ids(20, 90);
  modeld::v1::GenerateRequest scored = LongPrompt();
  scored.mutable_sampling()->set_prompt_logprobs(0);
  modeld::v1::GenerateRequest several = LongPrompt();
  several.mutable_sampling()->set_n(3);
  modeld::v1::GenerateRequest beams = LongPrompt();
  beams.mutable_sampling()->set_num_beams(3);

  ASSERT_THAT(first.status, IsOk());
  EXPECT_EQ(first.all.usage().cached_tokens(), 0);
  EXPECT_EQ(again.all.usage().cached_tokens(), 32);
  EXPECT_THAT(again.all.token_ids(), ElementsAreArray(first.all.token_ids()));
  EXPECT_EQ(engine.Generate(other_end).all.usage().cached_tokens(), 16);
  EXPECT_EQ(engine.Generate(scored).all.usage().cached_tokens(), 0);
  EXPECT_EQ(engine.Generate(several).all.usage().cached_tokens(), 32);
  EXPECT_EQ(engine.Generate(beams).all.usage().cached_tokens(), 32);
  const modeld::engine::v1::StatsResponse stats = engine.StatsNow();
  EXPECT_EQ(stats.cached_tokens_total(), 32 + 16 + 32 + 32);
  // Each token of a prompt counts as read or as cached.
  EXPECT_EQ(stats.prompt_tokens_total() + stats.cached_tokens_total(), 6 * 45);
  EXPECT_EQ(stats.kv_cache_used_ratio(), 0);
}

TEST(PrefixCacheTest, AnAnswerIsKeptForTheNextTurn) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  modeld::v1::GenerateRequest request = LongPrompt();
  request.mutable_sampling()->set_max_tokens(30);
  const EngineProcess::Answer answer = engine.Generate(request);
  request.mutable_token_ids()->MergeFrom(answer.all.token_ids());

  EXPECT_EQ(engine.Generate(request).all.usage().cached_tokens(), 64);
}

TEST(PrefixCacheTest, ASaltKeepsRequestsApart) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama").status, IsOk());
  const auto cached = [&](const std::string& salt) {
    modeld::v1::GenerateRequest request = LongPrompt();
    request.set_cache_salt(salt);
    const EngineProcess::Answer answer = engine.Generate(request);
    EXPECT_THAT(answer.status, IsOk());
    return answer.all.usage().cached_tokens();
  };

  EXPECT_EQ(cached("a"), 0);
  EXPECT_EQ(cached("b"), 0);
  EXPECT_EQ(cached(""), 0);
  EXPECT_EQ(cached("a"), 32);
  EXPECT_EQ(cached(std::string(256, 'a')), 0);
  modeld::v1::GenerateRequest request = LongPrompt();
  request.set_cache_salt(std::string(257, 'a'));
  EXPECT_THAT(engine.Generate(request).status, NamesField("cache_salt"));
}

TEST(PrefixCacheTest, NothingIsKeptWhenItIsOff) {
  EngineProcess engine;
  ASSERT_THAT(engine.Load("tiny-llama", {}, /*prefix_cache=*/false).status, IsOk());

  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(engine.Generate(LongPrompt()).all.usage().cached_tokens(), 0);
  }
}

TEST_F(InferenceServiceTest, APromptThatSpellsASpecialTokenIsTextWhenAskedFor) {
  modeld::v1::GenerateRequest request;
  request.set_prompt("a<|endoftext|>b");
  request.set_echo(true);
  request.mutable_sampling()->set_max_tokens(1);
  const auto tokenizer = Tokenizer::Load(std::string(MODELD_TEST_MODELS) + "/tiny-llama");
  ASSERT_THAT(tokenizer, IsOk());
  const std::optional<int64_t> special = (*tokenizer)->TokenId("<|endoftext|>");
  ASSERT_TRUE(special);

  const EngineProcess::Answer parsed = engine_->Generate(request);
  request.set_split_special_tokens(true);
  const EngineProcess::Answer split = engine_->Generate(request);

  ASSERT_THAT(split.status, IsOk());
  EXPECT_THAT(parsed.all.prompt_token_ids(), Contains(*special));
  EXPECT_THAT(split.all.prompt_token_ids(), Not(Contains(*special)));
}

TEST(InferenceLimitsTest, WhatIsAboveALimitIsRefusedWithBothFiguresAndTheLimitsName) {
  EngineProcess engine;
  modeld::engine::v1::RequestLimits limits;
  limits.set_prompt_bytes_max(100);
  limits.set_choices_max(2);
  limits.set_stop_max(1);
  ASSERT_THAT(engine.Load("tiny-llama", limits).status, IsOk());
  modeld::v1::GenerateRequest prompt;
  prompt.set_prompt(std::string(101, 'a'));
  modeld::v1::ChatRequest chat;
  chat.add_messages()->set_content(std::string(101, 'a'));
  modeld::v1::GenerateRequest choices;
  choices.add_token_ids(1);
  choices.mutable_sampling()->set_n(3);
  modeld::v1::GenerateRequest stops;
  stops.add_token_ids(1);
  for (const char* stop : {"a", "b"}) stops.mutable_sampling()->add_stop(stop);

  const auto message = [](const EngineProcess::Answer& answer) {
    return std::string(answer.status.message());
  };
  EXPECT_THAT(message(engine.Generate(prompt)),
              HasSubstr("has 101 bytes, at most 100 are allowed (limits.prompt_bytes_max)"));
  EXPECT_THAT(engine.Generate(prompt).status, NamesField("prompt"));
  EXPECT_THAT(engine.Chat(chat).status, NamesField("messages"));
  EXPECT_THAT(message(engine.Generate(choices)),
              HasSubstr("3 is not between 1 and 2 (limits.choices_max)"));
  EXPECT_THAT(message(engine.Generate(stops)),
              HasSubstr("has 2 entries, at most 1 are allowed (limits.stop_max)"));
}

TEST(InferenceLimitsTest, AStructureAboveALimitIsRefusedWithBothFiguresAndTheLimitsName) {
  EngineProcess engine;
  modeld::engine::v1::RequestLimits limits;
  limits.set_schema_bytes_max(10);
  limits.set_regex_bytes_max(11);
  limits.set_grammar_bytes_max(12);
  limits.set_structure_choices_max(1);
  limits.set_stop_bytes_max(5);
  ASSERT_THAT(engine.Load("tiny-llama", limits).status, IsOk());
  const auto refused = [&](const std::function<void(modeld::v1::Structure&)>& set) {
    modeld::v1::GenerateRequest request;
    request.add_token_ids(1);
    set(*request.mutable_structure());
    return std::string(engine.Generate(request).status.message());
  };

  EXPECT_THAT(refused([](auto& s) { s.set_schema_json(R"({"a": 1234})"); }),
              HasSubstr("has 11 bytes, at most 10 are allowed (limits.schema_bytes_max)"));
  EXPECT_THAT(refused([](auto& s) { s.set_regex("abcdefghijkl"); }),
              HasSubstr("has 12 bytes, at most 11 are allowed (limits.regex_bytes_max)"));
  EXPECT_THAT(refused([](auto& s) { s.set_grammar("start: \"abcd\""); }),
              HasSubstr("has 13 bytes, at most 12 are allowed (limits.grammar_bytes_max)"));
  EXPECT_THAT(refused([](auto& s) {
                s.add_choice("a");
                s.add_choice("b");
              }),
              HasSubstr("has 2 entries, at most 1 are allowed (limits.structure_choices_max)"));
  EXPECT_THAT(refused([](auto& s) { s.add_choice("abcdef"); }),
              HasSubstr("a text has 6 bytes, not 1 to 5 (limits.stop_bytes_max)"));
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
  grpc::ClientContext embed;
  modeld::v1::EmbedResponse vectors;
  EXPECT_THAT(FromGrpcStatus(engine.inference().Embed(&embed, {}, &vectors)),
              HasReasonOf(Reason::kModelNotReady));
}

}  // namespace
}  // namespace modeld
