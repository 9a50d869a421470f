// Answers that follow a grammar, through the scheduler.
#include "server/engine/batch/answer_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/engine/batch/scheduler.h"
#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::ElementsAreArray;
using ::testing::MatchesRegex;

// Token 2 is "!", and so on through ASCII to the end of TinyLm's vocabulary, "[".
int64_t Id(char c) { return c - '!' + 2; }
char Letter(int64_t id) { return static_cast<char>(id - 2 + '!'); }
constexpr int64_t kEos = 1;

class AnswerGrammarTest : public ::testing::Test {
 protected:
  AnswerGrammarTest()
      : tokenizer_(*Tokenizer::Load(std::string(MODELD_TEST_DATA) + "/text/byte_level_bpe")),
        compiler_(*GrammarCompiler::Create(*tokenizer_, {{kEos}})) {}

  AnswerStructure Structure(const std::string& regex) {
    auto grammar =
        compiler_->Compile({.form = GrammarSource::Form::kRegex, .text = regex, .field = "regex"});
    EXPECT_THAT(grammar, IsOk());
    return {.grammar = *grammar, .mask_threads = &mask_threads_};
  }

  GenerationRequest Structured(const std::string& regex, int64_t max_tokens) {
    GenerationRequest request = Request({3, 14, 15}, max_tokens);
    request.structure = Structure(regex);
    request.eos_token_ids = {kEos};
    request.new_token_text = [] {
      return [](std::optional<int64_t> id) {
        return id ? std::string(1, Letter(*id)) : std::string();
      };
    };
    return request;
  }

  OutputPiece Generate(GenerationRequest request) {
    TinyLm model;
    Scheduler scheduler({}, model, Clock::Real());
    Call call(std::move(request));
    EXPECT_THAT(scheduler.Submit(call.generation()), IsOk());
    return call.ReadAll();
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<GrammarCompiler> compiler_;
  Executor mask_threads_{{.threads = 1}};
};

TEST_F(AnswerGrammarTest, AWholeAnswerStopsWithoutAnEnd) {
  GenerationRequest request = Structured("AB[0-9]{2}", 100);
  request.sampling.min_tokens = 10;

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_THAT(answer.text, MatchesRegex("AB[0-9][0-9]"));
  EXPECT_EQ(answer.token_ids.size(), 4U);
  EXPECT_THAT(answer.end->status, IsOk());
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  EXPECT_FALSE(answer.end->stop_token_id);
  EXPECT_EQ(answer.end->usage.generated_tokens, 4);
}

TEST_F(AnswerGrammarTest, AnEndComesOnlyWhereTheAnswerIsWhole) {
  GenerationRequest request = Structured("[A-Z]{3,}", 100);
  request.sampling.logit_bias = {{kEos, 100}};

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_THAT(answer.text, MatchesRegex("[A-Z][A-Z][A-Z]"));
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  EXPECT_EQ(answer.end->stop_token_id, kEos);
}

TEST_F(AnswerGrammarTest, AnAnswerThatIsCutIsNotPassedOffAsWhole) {
  const OutputPiece cut = Generate(Structured("[A-Z]{20}", 10));
  const OutputPiece whole = Generate(Structured("[A-Z]{10}", 10));

  EXPECT_EQ(cut.token_ids.size(), 10U);
  EXPECT_EQ(cut.end->reason, FinishReason::kLength);
  EXPECT_EQ(whole.token_ids.size(), 10U);
  EXPECT_EQ(whole.end->reason, FinishReason::kStop);
}

TEST_F(AnswerGrammarTest, WithIgnoreEosTheGrammarAloneEndsIt) {
  GenerationRequest request = Structured("[A-Z]{3,5}", 100);
  request.sampling.logit_bias = {{kEos, 100}};
  request.sampling.ignore_eos = true;

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_THAT(answer.text, MatchesRegex("[A-Z][A-Z][A-Z][A-Z][A-Z]"));
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  EXPECT_FALSE(answer.end->stop_token_id);
}

TEST_F(AnswerGrammarTest, MinTokensPutsOffTheEnd) {
  GenerationRequest request = Structured("[A-Z]{3,}", 100);
  request.sampling.logit_bias = {{kEos, 100}};
  request.sampling.min_tokens = 6;

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_EQ(answer.text.size(), 6U);
  EXPECT_EQ(answer.end->stop_token_id, kEos);
}

TEST_F(AnswerGrammarTest, AStopTokenIsTextWhereTheAnswerIsNotWhole) {
  GenerationRequest request = Structured("A{3}B?", 100);
  request.sampling.logit_bias = {{Id('A'), 100}};
  request.sampling.stop_token_ids = {Id('A')};

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_EQ(answer.text, "AAA");
  EXPECT_EQ(answer.token_ids.size(), 4U);
  EXPECT_EQ(answer.end->stop_token_id, Id('A'));
}

TEST_F(AnswerGrammarTest, AStopStringEndsItAnywhere) {
  GenerationRequest request = Structured("ABCDE[0-9]+", 100);
  request.sampling.stop = {"CD"};

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_EQ(answer.text, "AB");
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  EXPECT_EQ(answer.end->stop_match, "CD");
}

TEST_F(AnswerGrammarTest, TheAnswerIsFreeUntilTheStructureBegins) {
  GenerationRequest request = Structured("[0-9]{3}", 100);
  request.sampling.logit_bias = {{kEos, 100}};  // an answer without its structure does not end
  request.structure->begins_after = [](std::span<const int64_t> answer) {
    return answer.size() == 5;
  };

  const OutputPiece answer = Generate(request);

  ASSERT_EQ(answer.token_ids.size(), 8U);
  EXPECT_THAT(std::span(answer.token_ids).first(5),
              ElementsAreArray(TinyLm::Answer(request.prompt, 5)));
  EXPECT_THAT(answer.text.substr(5), MatchesRegex("[0-9][0-9][0-9]"));
  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
}

TEST_F(AnswerGrammarTest, ManyAnswersFollowTheSameGrammar) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  std::vector<std::unique_ptr<Call>> calls;
  for (int64_t i = 0; i < 16; ++i) {
    GenerationRequest request = Structured("([A-F]{1,3}-[0-9]{2,4},){2,5};", 200);
    request.prompt = {i, 2 * i + 1};
    request.sampling.greedy = false;
    request.sampling.seed = i;
    calls.push_back(std::make_unique<Call>(std::move(request)));
    ASSERT_THAT(scheduler.Submit(calls.back()->generation()), IsOk());
  }

  for (const auto& call : calls) {
    const OutputPiece answer = call->ReadAll();
    EXPECT_THAT(answer.text, ::testing::ContainsRegex("^([A-F]{1,3}-[0-9]{2,4},){2,5};$"));
    EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  }
}

TEST_F(AnswerGrammarTest, ItNeedsNoThreadThatIsFree) {
  Executor none({.threads = 0, .waiting_max = 0});
  GenerationRequest request = Structured("AB[0-9]{2}", 100);
  request.structure->mask_threads = &none;

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_THAT(answer.text, MatchesRegex("AB[0-9][0-9]"));
}

TEST_F(AnswerGrammarTest, GoesAwayWhileItsMaskIsComputed) {
  const AnswerStructure structure = Structure("[A-Z]+");

  for (int i = 0; i < 200; ++i) AnswerGrammar(structure, {kEos});

  AnswerGrammar last(structure, {kEos});
  const auto rules = last.Next();
  ASSERT_THAT(rules, IsOk());
  EXPECT_FALSE((*rules)->may_end);
}

TEST_F(AnswerGrammarTest, BansThatLeaveNothingAreTheRequestsFault) {
  GenerationRequest request = Structured("[A-Z]+", 100);
  request.sampling.allowed_token_ids = {Id('0'), Id('1')};

  const OutputPiece answer = Generate(std::move(request));

  EXPECT_THAT(answer.end->status, NamesField("sampling.allowed_token_ids"));
}

}  // namespace
}  // namespace modeld
