#include "server/engine/chat/call_grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "server/engine/chat/harmony_answer.h"
#include "server/engine/text/grammar.h"
#include "tests/engine/chat/transcripts.h"
#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The tools that the transcripts call, of types that every style can write.
std::vector<CallableTool> Tools(const std::string& only = "") {
  const std::vector<std::pair<const char*, const char*>> all = {
      {"get_weather", R"({"type": "object", "properties": {"city": {"type": "string"}},
                          "required": ["city"]})"},
      {"now", "{}"},
      {"add", R"({"type": "object", "required": ["a", "b"],
                  "properties": {"a": {"type": "integer"}, "b": {"type": "number"}}})"},
      {"write_file", R"({"type": "object", "properties": {"path": {"type": "string"},
                                                          "text": {"type": "string"}}})"},
      {"search", R"({"type": "object", "properties": {
                       "query": {"type": "string"}, "exact": {"type": "boolean"},
                       "filter": {"type": "object"}, "tags": {"type": "array"},
                       "limit": {"type": ["integer", "null"]}}})"},
      {"db.query-2", R"({"type": "object", "properties": {"sql": {"type": "string"}}})"}};
  std::vector<CallableTool> out;
  for (const auto& [name, schema] : all) {
    if (!only.empty() && only != name) continue;
    out.push_back({name, Json::parse(schema), "tools[0].parameters_json"});
  }
  return out;
}

// Over one of the small tokenizers of the goldens, which has none of the styles' special tokens.
class CallGrammarTest : public ::testing::TestWithParam<StyleUnderTest> {
 protected:
  CallGrammarTest()
      : tokenizer_(*Tokenizer::Load(TextDataPath("byte_level_bpe"))),
        compiler_(*GrammarCompiler::Create(*tokenizer_, {})),
        format_(FormatOf(GetParam(), Marks::kText)) {}

  // Whether the whole of `text` is an answer.
  bool Takes(const CallGrammarOptions& options, const std::string& text,
             const std::string& tool = "") const {
    const auto lark = CallGrammar(*format_.call_form(), Tools(tool), options);
    EXPECT_THAT(lark, IsOk());
    const auto grammar =
        compiler_->Compile({.form = GrammarSource::Form::kLark, .text = *lark, .field = "tools"});
    EXPECT_THAT(grammar, IsOk()) << *lark;
    if (!grammar.ok()) return false;
    const std::unique_ptr<GrammarState> state = *(*grammar)->Start();
    std::vector<uint32_t> mask((tokenizer_->vocab_size() + 31) / 32);
    const std::vector<int64_t> ids = *tokenizer_->Encode(text, /*add_special_tokens=*/false);
    for (const int64_t id : ids) {
      EXPECT_THAT(state->Mask(mask), IsOk());
      if (((mask[id / 32] >> (id % 32)) & 1) == 0) return false;
      EXPECT_THAT(state->Accept(id), IsOk());
    }
    const absl::StatusOr<bool> can_stop = state->Mask(mask);
    EXPECT_THAT(can_stop, IsOk());
    return can_stop.value_or(false);
  }

  // The form's own way to write calls, which is one of those of the style.
  std::string Written(const std::vector<Call>& calls) const {
    // Mistral's template adds ids, which the engine makes itself.
    return absl::StrReplaceAll(GetParam().write({.reasoning = "", .text = "", .calls = calls}),
                               {{", \"id\": \"Ab3dE5gH1\"", ""}});
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<GrammarCompiler> compiler_;
  const AnswerFormat format_;
};

const Call kWeather = {"get_weather", Json::parse(R"({"city": "K\u00f6ln"})")};
const Call kNow = {"now", Json::parse("{}")};
const Call kAdd = {"add", Json::parse(R"({"a": -12, "b": 0.5})")};
const Call kSearch = {"search", Json::parse(R"({"query": "a \"b\" < c",
                                                "filter": {"a": [true, null]}, "tags": [1, "x"]})")};

TEST_P(CallGrammarTest, TakesTheCallsThatTheTemplateWrites) {
  for (const Call& call : {kWeather, kNow, kAdd, kSearch}) {
    EXPECT_TRUE(Takes({}, Written({call}))) << Written({call});
    EXPECT_TRUE(Takes({.one_call = true}, Written({call}), call.name)) << Written({call});
    // The reader of the style makes a call of it.
    const Events events = Parse(format_, {Written({call})});
    EXPECT_EQ(events.complete_calls, 1) << Written({call});
    EXPECT_EQ(events.text, "");
  }
}

TEST_P(CallGrammarTest, TakesSeveralCallsUnlessOneIsAskedFor) {
  const std::string two = Written({kWeather, kAdd});

  EXPECT_TRUE(Takes({}, two)) << two;
  EXPECT_FALSE(Takes({.one_call = true}, two));
}

TEST_P(CallGrammarTest, TakesNothingButCallsOfTheTools) {
  EXPECT_FALSE(Takes({}, "It is sunny."));
  EXPECT_FALSE(Takes({}, ""));
  EXPECT_FALSE(Takes({}, Written({{"get_whether", kWeather.arguments}})));
  EXPECT_FALSE(Takes({}, Written({kNow}), "add"));
  EXPECT_FALSE(Takes({}, Written({{"add", Json::parse(R"({"a": "x", "b": 1})")}})));
  EXPECT_FALSE(Takes({}, Written({{"add", Json::parse(R"({"a": 1})")}})));
}

TEST_P(CallGrammarTest, LetsAReasoningComeBefore) {
  const std::string call = Written({kNow});
  const CallGrammarOptions may_think = {.reasoning = {{"<think>", "</think>"}}};
  const CallGrammarOptions thinks = {.reasoning = {{"", "</think>"}}};

  EXPECT_TRUE(Takes(may_think, call));
  EXPECT_TRUE(Takes(may_think, "<think>\nIs a < b?\n</think>\n\n" + call));
  EXPECT_FALSE(Takes(may_think, "Well, " + call));
  EXPECT_TRUE(Takes(thinks, "I call.\n</think>\n" + call));
  EXPECT_FALSE(Takes(thinks, call));
}

// Those whose template writes as the form does.
std::vector<StyleUnderTest> FormsUnderTest() {
  std::vector<StyleUnderTest> out;
  for (StyleUnderTest style : StylesUnderTest()) {
    if (style.name == "mistral_ids" || style.name == "harmony") continue;
    if (style.name == "mistral_args") style.template_source += " [ARGS]";
    if (style.name == "deepseek_r1") style.template_source += " ```json";
    out.push_back(style);
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Styles, CallGrammarTest, ::testing::ValuesIn(FormsUnderTest()),
                         [](const auto& style) { return style.param.name; });

TEST(CallGrammarTextTest, ASpecialTokenIsItsTokenWhereverItStands) {
  const auto lark = CallGrammar(
      HarmonyCallForm(), Tools("now"),
      {.reasoning = {{std::string(kHarmonyReasoning), std::string(kHarmonyReasoningEnd)}},
       .special_tokens = {
           {"<|channel|>", 7}, {"<|message|>", 8}, {"<|start|>", 9}, {"<|end|>", 6}}});

  ASSERT_THAT(lark, IsOk());
  EXPECT_THAT(*lark, HasSubstr(R"((<[7]> "analysis" <[8]> )"));
  EXPECT_THAT(*lark, HasSubstr(R"(<[6]> <[9]> "assistant")"));
  EXPECT_THAT(*lark, HasSubstr(R"(<[7]> "commentary to=functions.now <|constrain|>json" <[8]>)"));
}

TEST(CallGrammarTextTest, WhatCannotBeKeptToIsRefusedWithItsPlace) {
  const StyleUnderTest* coder = nullptr;
  for (const StyleUnderTest& style : StylesUnderTest()) {
    if (style.name == "qwen3_coder") coder = &style;
  }
  ASSERT_NE(coder, nullptr);
  const AnswerFormat format = FormatOf(*coder, Marks::kText);
  const auto refusal = [&](const char* schema) {
    const std::vector<CallableTool> tools = {
        {"f", Json::parse(schema), "tools[3].parameters_json"}};
    const absl::Status status = CallGrammar(*format.call_form(), tools, {}).status();
    EXPECT_THAT(status, NamesField("tools[3].parameters_json"));
    return std::string(status.message());
  };

  EXPECT_THAT(refusal(R"({"anyOf": [{"type": "object"}]})"), HasSubstr("at \"/anyOf\""));
  EXPECT_THAT(refusal(R"({"properties": {"x": {"type": "string", "pattern": "a+"}}})"),
              AllOf(HasSubstr("at \"/properties/x\""), HasSubstr("\"pattern\"")));
  EXPECT_THAT(refusal(R"({"properties": {"x": {"type": ["string", "null"]}}})"),
              HasSubstr("at \"/properties/x\""));
  EXPECT_THAT(refusal(R"({"properties": {"x": {"enum": ["a", 1]}}})"),
              HasSubstr("at \"/properties/x\""));
  EXPECT_THAT(refusal(R"({"required": ["y"], "properties": {}})"), HasSubstr("\"y\""));
  const std::vector<CallableTool> list = {
      {"f", Json::parse(R"({"type": "array"})"), "tools[0].parameters_json"}};
  EXPECT_THAT(CallGrammar(HarmonyCallForm(), list, {}).status(),
              NamesField("tools[0].parameters_json"));
}

}  // namespace
}  // namespace modeld
