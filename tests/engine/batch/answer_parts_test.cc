// Answers whose text the test writes, taken apart on their way through the scheduler.
#include "server/engine/batch/answer_parts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/batch/scheduler.h"
#include "tests/engine/batch/tiny_lm.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::ElementsAre;

const AnswerFormat& Format() {
  static const AnswerFormat kFormat("<tool_call> </think>", true,
                                    [](const std::string&) { return false; });
  return kFormat;
}

AnswerPartsOptions Parts(bool in_reasoning = false) {
  auto tools = std::make_shared<ToolSet>();
  tools->Add("now", "");
  return {.new_parser = [tools, in_reasoning] {
    return std::make_unique<AnswerParser>(Format(), tools,
                                          AnswerParser::Options{.in_reasoning = in_reasoning});
  }};
}

// Whatever its tokens are, the text of the answer's are those of `script`.
GenerationRequest Scripted(std::vector<std::string> script) {
  GenerationRequest request = Request({3, 4}, std::ssize(script));
  request.new_token_text = [script] {
    return [script, next = size_t{0}](std::optional<int64_t> id) mutable {
      return id ? script.at(next++) : std::string();
    };
  };
  request.parts = Parts();
  return request;
}

OutputPiece Answer(GenerationRequest request) {
  TinyLm model;
  Scheduler scheduler({}, model, Clock::Real());
  Call call(std::move(request));
  EXPECT_THAT(scheduler.Submit(call.generation()), IsOk());
  OutputPiece all;
  while (!all.end) {
    OutputPiece piece = call.ReadSome();
    all.text += piece.text;
    all.reasoning += piece.reasoning;
    AppendToolCalls(std::move(piece.tool_calls), all.tool_calls);
    all.token_ids.insert(all.token_ids.end(), piece.token_ids.begin(), piece.token_ids.end());
    all.end = std::move(piece.end);
  }
  return all;
}

const std::vector<std::string> kCalling = {"<think>",
                                           "why",
                                           "</think>",
                                           "\n\n",
                                           "Look. ",
                                           "<tool_call>",
                                           "{\"name\": \"now\", ",
                                           "\"argu",
                                           "ments\": ",
                                           "{\"a\"",
                                           ": 1}",
                                           "}</tool_call>"};

TEST(AnswerPartsTest, AnAnswerThatEndsAfterACallEndsWithToolCalls) {
  GenerationRequest request = Scripted(kCalling);
  const std::vector<int64_t> tokens =
      TinyLm::Answer(request.prompt, request.sampling.max_tokens + 1);
  request.sampling.max_tokens += 1;
  request.eos_token_ids = {tokens.back()};
  ASSERT_EQ(std::ranges::count(tokens, tokens.back()), 1);  // it comes last only

  const OutputPiece answer = Answer(std::move(request));

  EXPECT_EQ(answer.end->reason, FinishReason::kToolCalls);
  EXPECT_EQ(answer.reasoning, "why");
  EXPECT_EQ(answer.text, "Look.");
  ASSERT_EQ(answer.tool_calls.size(), 1U);
  EXPECT_EQ(answer.tool_calls[0].name, "now");
  EXPECT_EQ(answer.tool_calls[0].arguments, R"({"a": 1})");
  EXPECT_EQ(answer.end->usage.reasoning_tokens, 3);
  EXPECT_EQ(answer.end->usage.generated_tokens, std::ssize(kCalling) + 1);
}

TEST(AnswerPartsTest, AnAnswerOfOneCallEndsBehindIt) {
  std::vector<std::string> script = kCalling;
  script.back() = "}</tool_call>\n<tool_call>";
  script.insert(script.end(), {"{\"name\": \"now\"", ", \"arguments\": {}}", "</tool_call>"});
  GenerationRequest request = Scripted(script);
  request.parts.one_call = true;

  const OutputPiece answer = Answer(std::move(request));

  EXPECT_EQ(answer.end->reason, FinishReason::kToolCalls);
  EXPECT_EQ(answer.text, "Look.");
  ASSERT_EQ(answer.tool_calls.size(), 1U);
  EXPECT_EQ(answer.tool_calls[0].arguments, R"({"a": 1})");
  EXPECT_EQ(answer.end->usage.generated_tokens, std::ssize(kCalling));
}

TEST(AnswerPartsTest, ACallThatMaxTokensCutsIsTextAndLength) {
  std::vector<std::string> script = kCalling;
  script.resize(10);

  const OutputPiece answer = Answer(Scripted(script));

  EXPECT_EQ(answer.end->reason, FinishReason::kLength);
  EXPECT_EQ(answer.text, R"(Look. <tool_call>{"name": "now", "arguments": {"a")");
  ASSERT_EQ(answer.tool_calls.size(), 1U);
  EXPECT_TRUE(answer.tool_calls[0].withdrawn);
}

TEST(AnswerPartsTest, AStopStringEndsAnAnswerWithCallsAsStop) {
  std::vector<std::string> script = kCalling;
  script.insert(script.end(), {" EN", "D", "more"});
  GenerationRequest request = Scripted(script);
  request.sampling.stop = {"END"};

  const OutputPiece answer = Answer(std::move(request));

  EXPECT_EQ(answer.end->reason, FinishReason::kStop);
  EXPECT_EQ(answer.end->stop_match, "END");
  EXPECT_EQ(answer.tool_calls.size(), 1U);
}

TEST(AnswerPartsTest, WithoutAParserAllIsText) {
  GenerationRequest request = Scripted(kCalling);
  request.parts = {};

  const OutputPiece answer = Answer(std::move(request));

  std::string all;
  for (const std::string& text : kCalling) all += text;
  EXPECT_EQ(answer.text, all);
  EXPECT_EQ(answer.end->usage.reasoning_tokens, 0);
}

TEST(AnswerPartsTest, ReasoningThatIsTooLongIsEnded) {
  for (const int64_t budget : {0, 1, 3}) {
    std::vector<std::string> script(budget, "a");
    script.insert(script.end(), {"\n</think", ">\n", "b", "c"});
    GenerationRequest request = Scripted(script);
    request.parts = Parts(/*in_reasoning=*/true);
    request.parts.reasoning_tokens_max = budget;
    request.parts.end_of_reasoning = {7, 8};
    request.sampling.logprobs = 0;

    const OutputPiece answer = Answer(std::move(request));

    EXPECT_EQ(answer.reasoning, std::string(budget, 'a'));
    EXPECT_EQ(answer.text, "bc");
    EXPECT_EQ(answer.token_ids.at(budget), 7);
    EXPECT_EQ(answer.token_ids.at(budget + 1), 8);
    EXPECT_EQ(answer.end->usage.reasoning_tokens, budget + 2);
  }
}

TEST(AnswerPartsTest, ReasoningThatEndsInTimeIsLeftAlone) {
  GenerationRequest request = Scripted(kCalling);
  request.parts.reasoning_tokens_max = 3;
  request.parts.end_of_reasoning = {7, 8};

  const OutputPiece answer = Answer(std::move(request));

  EXPECT_EQ(answer.token_ids, TinyLm::Answer({3, 4}, std::ssize(kCalling)));
}

}  // namespace
}  // namespace modeld
