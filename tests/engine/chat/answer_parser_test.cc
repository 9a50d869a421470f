#include "server/engine/chat/answer_parser.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

#include "tests/engine/chat/transcripts.h"

namespace modeld {
namespace {

AnswerFormat Format(std::string_view template_source) {
  return {template_source, /*with_calls=*/true, [](const std::string&) { return false; }};
}

struct Parts {
  std::string reasoning;
  std::string text;

  bool operator==(const Parts&) const = default;
};

Parts PartsOf(const AnswerFormat& format, std::string_view answer, bool in_reasoning = false) {
  AnswerParser parser(format, TestTools(), {.in_reasoning = in_reasoning});
  AnswerPiece piece = parser.Put(answer);
  AnswerPiece rest = parser.Finish();
  return {piece.reasoning + rest.reasoning, piece.text + rest.text};
}

std::ostream& operator<<(std::ostream& out, const Parts& parts) {
  return out << "{" << parts.reasoning << "}{" << parts.text << "}";
}

TEST(AnswerParserTest, ReasoningIsWhatStandsBetweenItsMarks) {
  const AnswerFormat format = Format("<think> </think>");
  EXPECT_EQ(PartsOf(format, "<think>\nwhy\n</think>\n\nbecause"), (Parts{"why", "because"}));
  EXPECT_EQ(PartsOf(format, "\n <think>why</think>because"), (Parts{"why", "because"}));
  EXPECT_EQ(PartsOf(format, "<think>\n\n</think>\n\nbecause\n"), (Parts{"", "because\n"}));
  EXPECT_EQ(PartsOf(format, "<think>a <think> b\n\nc </thin"),
            (Parts{"a <think> b\n\nc </thin", ""}));
}

TEST(AnswerParserTest, ReasoningThatThePromptOpenedIsOpen) {
  const AnswerFormat format = Format("<think> </think>");
  EXPECT_TRUE(format.EndsInReasoning("<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(format.EndsInReasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_FALSE(format.EndsInReasoning("<|im_start|>assistant\n"));
  EXPECT_EQ(PartsOf(format, "why\n</think>\n\nbecause", true), (Parts{"why", "because"}));
  EXPECT_EQ(PartsOf(format, "why \n", true), (Parts{"why \n", ""}));
}

TEST(AnswerParserTest, AMarkOfReasoningInsideTheAnswerIsText) {
  const AnswerFormat format = Format("<think> </think>");
  EXPECT_EQ(PartsOf(format, "The tag <think> opens, </think> closes."),
            (Parts{"", "The tag <think> opens, </think> closes."}));
}

TEST(AnswerParserTest, SpaceOfAnAnswerWithoutReasoningStays) {
  EXPECT_EQ(PartsOf(Format("<think> </think>"), " \n a \n\n"), (Parts{"", " \n a \n\n"}));
  EXPECT_EQ(PartsOf(Format("nothing"), " a "), (Parts{"", " a "}));
}

// The forms that chat templates of real models use.
TEST(AnswerParserTest, EveryFormOfReasoningIsToldApart) {
  const struct {
    std::string_view template_source;
    std::string_view answer;
  } kForms[] = {
      {"<seed:think> </seed:think>", "<seed:think>why</seed:think>\nbecause"},
      {"'<mm:think>' '</mm:think>'", "<mm:think>why</mm:think>because"},
      {"'<think{}>' '</think{}>'", "<think:opensource>why</think:opensource>because"},
      {"[THINK] [/THINK]", "[THINK]why[/THINK]because"},
      {"<|START_THINKING|>",
       "<|START_THINKING|>why<|END_THINKING|><|START_TEXT|>because<|END_TEXT|>"},
      {"<|START_THINKING|>",
       "<|START_THINKING|>why<|END_THINKING|><|START_RESPONSE|>because<|END_RESPONSE|>"},
      {"<|channel>thought", "<|channel>thought\nwhy\n<channel|>because"},
      {"[BEGIN FINAL RESPONSE]",
       "Here are my reasoning steps:\nwhy\n[BEGIN FINAL RESPONSE]\nbecause"},
      {"<|begin|>assistant", "<|think|>why<|end|><|begin|>assistant<|content|>because"},
      {"<|end_of_msg|>",
       "<|open|>think<|sep|>why<|close|>think<|sep|><|open|>response<|sep|>because"
       "<|close|>response<|sep|><|close|>message<|sep|>"},
      {" to=self<|message|>",
       " to=self<|message|>why<|eom|><|start|>assistant to=user<|message|>because"},
      {"<think></think> <response></response>", "<think>why</think>\n<response>because</response>"},
      {"<|channel|> <|message|>",
       "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>"
       "because<|return|>"},
  };
  for (const auto& form : kForms) {
    EXPECT_EQ(PartsOf(Format(form.template_source), form.answer), (Parts{"why", "because"}))
        << form.answer;
  }
}

TEST(AnswerParserTest, ReasoningMayEndWithASpecialTokenThatOpensCalls) {
  const AnswerFormat format =
      FormatOf({"kimi", "<|tool_call_argument_begin|> <think> </think>", nullptr}, Marks::kTokens);
  const std::string answer = Encoded(
      "<think>why<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0"
      "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
      format);

  const Events events = Parse(format, {answer});

  EXPECT_EQ(events.reasoning, "why");
  ASSERT_EQ(events.complete_calls, 1);
  EXPECT_EQ(events.calls[0].id, "functions.now:0");
}

// Models quote the format of calls while they think.
TEST(AnswerParserTest, ACallSpelledOutInsideTheReasoningIsReasoning) {
  const std::string call = R"(<tool_call>{"name": "now", "arguments": {}}</tool_call>)";

  const Events events = Parse(Format("<tool_call> </think>"), {"<think>I write " + call});

  EXPECT_EQ(events.reasoning, "I write " + call);
  EXPECT_EQ(events.complete_calls, 0);
}

TEST(AnswerParserTest, AMarkThatIsATokenOfTheVocabularyIsTextWhenSpelledOut) {
  const AnswerFormat format = FormatOf({"mistral", "[TOOL_CALLS]", nullptr}, Marks::kTokens);
  const std::string written = "[TOOL_CALLS]now[ARGS]{}";

  EXPECT_EQ(Parse(format, {written}).text, written);
  EXPECT_EQ(Parse(format, {Encoded(written, format)}).complete_calls, 1);
}

TEST(AnswerParserTest, OnlySpecialTokensThatArePartOfAMarkAreInTheText) {
  const AnswerFormat format = {"<|channel>thought", true,
                               [](const std::string& s) { return s == "<channel|>"; }};
  EXPECT_EQ(format.TextOf("<|channel>"), "<|channel>");
  EXPECT_EQ(format.TextOf("<turn|>"), "");
  EXPECT_EQ(PartsOf(format, "<|channel>thought\nwhy" + format.TextOf("<channel|>") + "because"),
            (Parts{"why", "because"}));
}

TEST(AnswerParserTest, IdsAreNineLettersAndDigitsAndDiffer) {
  const Events events = Parse(Format("<tool_call>"),
                              {R"(<tool_call>{"name": "now"}</tool_call>)"
                               R"(<tool_call>{"name": "now", "arguments": null}</tool_call>)"});
  ASSERT_EQ(events.calls.size(), 2U);
  EXPECT_NE(events.calls[0].id, events.calls[1].id);
  for (const ToolCallPiece& call : events.calls) {
    EXPECT_EQ(call.id.size(), 9U);
    EXPECT_EQ(call.arguments, "{}");
    for (const char c : call.id) EXPECT_TRUE(isalnum(static_cast<unsigned char>(c))) << call.id;
  }
}

TEST(AnswerParserTest, AnIdThatTheModelWritesInTimeIsKept) {
  const AnswerFormat mistral = Format("[TOOL_CALLS]");
  EXPECT_EQ(Parse(mistral, {"[TOOL_CALLS]now[CALL_ID]abcdefgh1[ARGS]{}"}).calls.at(0).id,
            "abcdefgh1");
}

TEST(AnswerParserTest, KeysOfACallComeInAnyOrder) {
  const std::string call =
      R"(<tool_call>{"id": 5, "arguments": {"a": [1, {"b": "\"}"}]}, "x": null, "name": "add"}</tool_call>)";

  const Events events = Parse(Format("<tool_call>"), {call});

  ASSERT_EQ(events.complete_calls, 1);
  EXPECT_EQ(events.calls[0].name, "add");
  EXPECT_EQ(events.calls[0].arguments, R"({"a": [1, {"b": "\"}"}]})");
}

TEST(AnswerParserTest, ArgumentsInAStringAreTheirJson) {
  const Events events =
      Parse(Format("<tool_call>"),
            {R"(<tool_call>{"name": "add", "arguments": "{\"a\": \"\u00e4\"}"}</tool_call>)"});

  ASSERT_EQ(events.complete_calls, 1);
  EXPECT_EQ(events.calls[0].arguments, "{\"a\": \"\u00e4\"}");
}

TEST(AnswerParserTest, WhatIsNoCallComesBackAsItWas) {
  for (const std::string body :
       {R"({"name": "add"}x)", R"({"name": "add", "name": "add"})", R"({"arguments": {}})",
        R"({"name": "add", "arguments": [1]})", R"({"name": "add", "arguments": "[1]"})",
        R"({"name": 5, "arguments": {}})", R"({"name": "add", "arguments": {"a": 01}})", "[]", "{}",
        R"({"name": "add", "arguments": {}, "parameters": {}})", "not JSON", "\"add\"",
        "{\"name\": \"add\", \"arguments\": {\"a\": \"line\nfeed\"}}"}) {
    const std::string answer = "Look:\n\n<tool_call>\n" + body + "\n</tool_call> so.";
    const Events events = Parse(Format("<tool_call>"), {answer});
    if (body.ends_with("}x")) {
      EXPECT_EQ(events.text, "Look:x\n</tool_call> so.");
      continue;
    }
    EXPECT_EQ(events.complete_calls, 0) << body;
    EXPECT_EQ(events.text, answer);
  }
}

TEST(AnswerParserTest, AnAnswerOfLlamaThatIsJsonButNoCallIsText) {
  for (const std::string answer :
       {R"({"name": "now"})", R"({"name": "Ann", "parameters": {}})", R"({"a": 1})", "[1, 2]", "{",
        R"(See {"name": "now", "parameters": {}})"}) {
    EXPECT_EQ(Parse(Format("<|python_tag|>"), {answer}).text, answer);
  }
  EXPECT_EQ(
      Parse(Format("<|python_tag|>"), {R"(<|python_tag|>{"name": "now", "parameters": {}} Done.)"})
          .text,
      "Done.");
  EXPECT_EQ(Parse(Format("<|python_tag|>"), {R"(<function=add>{"a": 1}</function>)"})
                .calls.at(0)
                .arguments,
            R"({"a": 1})");
}

TEST(AnswerParserTest, HarmonyThatKeepsToNoRuleIsText) {
  const AnswerFormat format = Format("<|channel|> <|message|>");
  for (const std::string answer :
       {"Hello there.", "<|channel|>final", "<|channel|>other<|message|>x",
        " to=functions.add<|channel|>commentary<|message|>[1]",
        " to=browser.search<|channel|>commentary<|message|>{}"}) {
    EXPECT_EQ(Parse(format, {answer}).text, answer);
  }
  EXPECT_EQ(Parse(format, {"<|channel|>analysis to=python code<|message|>1+1<|call|>"}).reasoning,
            "1+1");
}

TEST(AnswerParserTest, MarksAreNoBeginningsOfOneAnother) {
  for (const StyleUnderTest& style : StylesUnderTest()) {
    const AnswerFormat format = FormatOf(style, Marks::kText);
    ASSERT_LE(format.marks().size(), 64U);
    for (const Mark& a : format.marks()) {
      for (const Mark& b : format.marks()) {
        EXPECT_TRUE(&a == &b || !a.spelling.starts_with(b.spelling)) << a.spelling;
      }
    }
  }
}

}  // namespace
}  // namespace modeld
