#include "server/engine/chat_answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "tests/engine/serve/engine_process.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

// A copy of tiny-llama with a template, and a special token, of the test's own.
class ModelFolder {
 public:
  explicit ModelFolder(const std::string& jinja, const std::string& special_token = "") {
    namespace fs = std::filesystem;
    for (const auto& file : fs::directory_iterator(fs::path(MODELD_TEST_MODELS) / "tiny-llama")) {
      fs::copy(file.path(), folder_.path());
    }
    std::ofstream(path() + "/chat_template.jinja") << jinja;
    if (special_token.empty()) return;
    for (const char* name : {"/tokenizer.json", "/tokenizer_config.json"}) {
      std::ifstream in(path() + name);
      const std::string text(std::istreambuf_iterator<char>(in), {});
      in.close();
      std::ofstream(path() + name) << absl::StrReplaceAll(text, {{"<|endoftext|>", special_token}});
    }
  }

  const std::string& path() const { return folder_.path(); }

 private:
  const TempDir folder_;
};

constexpr char kTools[] =
    "{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}{{ m.content }}\n{% endfor %}";

modeld::v1::ChatRequest Chat(int64_t max_tokens) {
  modeld::v1::ChatRequest request;
  request.add_messages()->set_role("user");
  request.mutable_messages(0)->set_content("hello there");
  request.mutable_sampling()->set_max_tokens(max_tokens);
  request.mutable_sampling()->set_ignore_eos(true);
  return request;
}

modeld::v1::ChatRequest WithTools(modeld::v1::ChatRequest request, const std::string& choice) {
  request.add_tools()->set_name("now");
  request.add_tools()->set_name("add");
  request.set_tool_choice(choice);
  return request;
}

TEST(ThinkingBudgetTest, IsANumberOfTokens) {
  const auto read = [](const char* json) { return ReadThinkingBudget(json); };
  EXPECT_EQ(*read(""), std::nullopt);
  EXPECT_EQ(*read("{}"), std::nullopt);
  EXPECT_EQ(*read(R"({"thinking_budget": null})"), std::nullopt);
  EXPECT_EQ(*read(R"({"thinking_budget": -1})"), std::nullopt);
  EXPECT_EQ(*read(R"({"thinking_budget": 0})"), 0);
  EXPECT_EQ(*read(R"({"thinking_budget": 512})"), 512);
  for (const char* json : {R"({"thinking_budget": -2})", R"({"thinking_budget": 1.5})",
                           R"({"thinking_budget": "low"})"}) {
    EXPECT_THAT(read(json), NamesField("template_args_json")) << json;
  }
}

TEST(ChatAnswerTest, ReasoningIsApartAndEndsWithItsBudget) {
  const ModelFolder model("{% for m in messages %}{{ m.content }}\n{% endfor %}<think>\n");
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());
  const auto tokenizer = Tokenizer::Load(model.path());
  ASSERT_THAT(tokenizer, IsOk());
  const std::vector<int64_t> end = *(*tokenizer)->Encode("\n</think>\n\n", false);
  modeld::v1::ChatRequest request = Chat(60);

  const EngineProcess::Answer free = engine.Chat(request);
  request.set_template_args_json(R"({"thinking_budget": 10})");
  const EngineProcess::Answer bounded = engine.Chat(request);

  ASSERT_THAT(free.status, IsOk());
  ASSERT_THAT(bounded.status, IsOk());
  EXPECT_EQ(free.all.text(), "");
  EXPECT_NE(free.all.reasoning_text(), "");
  EXPECT_EQ(free.all.usage().reasoning_tokens(), 60);
  const int64_t to_the_mark = std::ssize(*(*tokenizer)->Encode("\n</think>", false));
  EXPECT_EQ(bounded.all.usage().reasoning_tokens(), 10 + to_the_mark);
  EXPECT_NE(bounded.all.text(), "");
  EXPECT_TRUE(free.all.reasoning_text().starts_with(bounded.all.reasoning_text()));
  const std::vector<int64_t> forced(bounded.all.token_ids().begin() + 10,
                                    bounded.all.token_ids().begin() + 10 + std::ssize(end));
  EXPECT_EQ(forced, end);
}

TEST(ChatAnswerTest, ABudgetOfThinkingWithBeamsIsRefused) {
  const ModelFolder model("{% for m in messages %}{{ m.content }}{% endfor %}<think>");
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());
  modeld::v1::ChatRequest request = Chat(1);
  request.mutable_sampling()->set_num_beams(2);
  request.set_template_args_json(R"({"thinking_budget": 1})");

  EXPECT_THAT(engine.Chat(request).status, NamesField("template_args_json"));
}

TEST(ChatAnswerTest, ToolsThatTheModelCannotSeeAreRefused) {
  const ModelFolder model("{% for m in messages %}{{ m.content }}{% endfor %}");
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());

  EXPECT_THAT(engine.Chat(WithTools(Chat(1), "")).status, NamesField("tools"));
  EXPECT_THAT(engine.Chat(WithTools(Chat(1), "none")).status, IsOk());
}

TEST(ChatAnswerTest, MoreToolsThanTheLimitAreRefusedWithBothFigures) {
  const ModelFolder model(kTools);
  EngineProcess engine;
  modeld::engine::v1::RequestLimits limits;
  limits.set_tools_max(1);
  ASSERT_THAT(engine.Load(model.path(), limits).status, IsOk());

  const EngineProcess::Answer answer = engine.Chat(WithTools(Chat(1), "auto"));

  EXPECT_THAT(answer.status, NamesField("tools"));
  EXPECT_THAT(std::string(answer.status.message()),
              HasSubstr("has 2 entries, at most 1 are allowed (limits.tools_max)"));
}

TEST(ChatAnswerTest, ToolChoiceSaysWhichToolsTheModelSees) {
  const ModelFolder model(kTools);
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());
  const auto prompt_tokens = [&](const modeld::v1::ChatRequest& request) {
    const EngineProcess::Answer answer = engine.Chat(request);
    EXPECT_THAT(answer.status, IsOk());
    return answer.all.usage().prompt_tokens();
  };

  const int64_t without = prompt_tokens(Chat(1));
  const int64_t with = prompt_tokens(WithTools(Chat(1), ""));

  EXPECT_GT(with, without);
  EXPECT_EQ(prompt_tokens(WithTools(Chat(1), "auto")), with);
  EXPECT_EQ(prompt_tokens(WithTools(Chat(1), "none")), without);
  EXPECT_THAT(engine.Chat(WithTools(Chat(1), "subtract")).status, NamesField("tool_choice"));
  modeld::v1::ChatRequest no_tools = Chat(1);
  no_tools.set_tool_choice("required");
  EXPECT_THAT(engine.Chat(no_tools).status, NamesField("tool_choice"));
  modeld::v1::ChatRequest twice = WithTools(Chat(1), "");
  twice.add_tools()->set_name("now");
  EXPECT_THAT(engine.Chat(twice).status, NamesField("tools[2].name"));
}

// The token of a mark is no text, but what opens a call that never comes is not lost.
TEST(ChatAnswerTest, TheTokenOfAMarkComesBackWhenItOpensNoCall) {
  const ModelFolder model(std::string(kTools) + "{# [TOOL_CALLS] #}", "[TOOL_CALLS]");
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());
  const auto tokenizer = Tokenizer::Load(model.path());
  ASSERT_THAT(tokenizer, IsOk());
  const std::optional<int64_t> mark = (*tokenizer)->TokenId("[TOOL_CALLS]");
  ASSERT_TRUE(mark);
  modeld::v1::ChatRequest request = Chat(3);
  (*request.mutable_sampling()->mutable_logit_bias())[*mark] = 100;

  const EngineProcess::Answer plain = engine.Chat(request);
  const EngineProcess::Answer with_tools = engine.Chat(WithTools(request, ""));

  EXPECT_THAT(plain.all.token_ids(), Each(*mark));
  EXPECT_EQ(plain.all.text(), "");
  EXPECT_EQ(with_tools.all.text(), "[TOOL_CALLS][TOOL_CALLS][TOOL_CALLS]");
  EXPECT_EQ(with_tools.all.tool_calls_size(), 0);
}

// Tools whose arguments a random model can write to their end.
modeld::v1::ChatRequest WithSwitches(modeld::v1::ChatRequest request, const std::string& choice) {
  for (const char* name : {"lamp", "fan"}) {
    modeld::v1::Tool& tool = *request.add_tools();
    tool.set_name(name);
    tool.set_parameters_json(R"({"type": "object", "additionalProperties": false,
        "required": ["on", "speed"],
        "properties": {"on": {"type": "boolean"}, "speed": {"type": "integer", "enum": [1, 2]}}})");
  }
  request.set_tool_choice(choice);
  request.set_parallel_tool_calls(false);
  request.mutable_sampling()->set_temperature(1.5);
  request.mutable_sampling()->set_seed(17);
  request.set_template_args_json(R"({"thinking_budget": 4})");  // where the style has a reasoning
  return request;
}

struct TemplateUnderTest {
  std::string name;
  std::string evidence;  // of the style, in a comment of the template
  std::string special_token;
};

class RequiredCallsTest : public ::testing::TestWithParam<TemplateUnderTest> {
 protected:
  RequiredCallsTest()
      : model_(std::string(kTools) + "{# " + GetParam().evidence + " #}",
               GetParam().special_token) {
    EXPECT_THAT(engine_.Load(model_.path()).status, IsOk());
  }

  // The only call of an answer to `request`; checks that there is nothing else.
  modeld::v1::ToolCall TheCall(const modeld::v1::ChatRequest& request) {
    const EngineProcess::Answer answer = engine_.Chat(request);
    EXPECT_THAT(answer.status, IsOk());
    EXPECT_EQ(answer.all.text(), "");
    EXPECT_EQ(answer.all.finish_reason(), modeld::v1::FINISH_REASON_TOOL_CALLS);
    modeld::v1::ToolCall call;
    for (const modeld::v1::ToolCall& piece : answer.all.tool_calls()) {
      EXPECT_EQ(piece.index(), 0);
      if (!piece.name().empty()) call.set_name(piece.name());
      call.mutable_arguments_json()->append(piece.arguments_json());
    }
    const auto arguments = nlohmann::json::parse(call.arguments_json(), nullptr, false);
    EXPECT_TRUE(arguments.is_object() && arguments["on"].is_boolean() &&
                (arguments["speed"] == 1 || arguments["speed"] == 2))
        << call.arguments_json();
    return call;
  }

  const ModelFolder model_;
  EngineProcess engine_;
};

TEST_P(RequiredCallsTest, ARandomModelCallsWhateverTheSeed) {
  modeld::v1::ChatRequest request = WithSwitches(Chat(1000), "required");
  for (int seed = 1; seed <= 3; ++seed) {
    request.mutable_sampling()->set_seed(seed);
    TheCall(request);
  }
}

TEST_P(RequiredCallsTest, AToolThatIsNamedIsTheOneThatIsCalled) {
  for (const char* name : {"lamp", "fan"}) {
    EXPECT_EQ(TheCall(WithSwitches(Chat(1000), name)).name(), name);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Templates, RequiredCallsTest,
    ::testing::Values(TemplateUnderTest{"hermes", "<tool_call>", ""},
                      TemplateUnderTest{"hermes_token", "<tool_call>", "<tool_call>"},
                      TemplateUnderTest{"mistral_token", "[TOOL_CALLS] [ARGS]", "[TOOL_CALLS]"},
                      TemplateUnderTest{"llama3", "<|python_tag|>", ""},
                      TemplateUnderTest{"kimi", "<|tool_call_argument_begin|>", ""},
                      TemplateUnderTest{"qwen3_coder", "<function= <parameter=", ""},
                      TemplateUnderTest{"dsml", "｜DSML｜ invoke name=", ""},
                      TemplateUnderTest{"glm", "<arg_key>", ""},
                      TemplateUnderTest{"harmony", "<|channel|> <|message|>", "<|channel|>"}),
    [](const auto& model) { return model.param.name; });

TEST(RequiredCallsAfterReasoningTest, TheCallFollowsTheReasoningThatThePromptOpens) {
  const ModelFolder model(std::string(kTools) + "<tool_call></tool_call><think>\n");
  EngineProcess engine;
  ASSERT_THAT(engine.Load(model.path()).status, IsOk());
  modeld::v1::ChatRequest request = WithSwitches(Chat(1000), "fan");
  request.set_template_args_json(R"({"thinking_budget": 10})");

  // Among the seeds are some whose tenth token ends within a character.
  for (int seed = 1; seed <= 20; ++seed) {
    request.mutable_sampling()->set_seed(seed);
    const EngineProcess::Answer answer = engine.Chat(request);

    ASSERT_THAT(answer.status, IsOk()) << seed;
    EXPECT_NE(answer.all.reasoning_text(), "");
    EXPECT_EQ(answer.all.text(), "");
    ASSERT_GT(answer.all.tool_calls_size(), 0);
    EXPECT_EQ(answer.all.tool_calls(0).name(), "fan");
    EXPECT_EQ(answer.all.finish_reason(), modeld::v1::FINISH_REASON_TOOL_CALLS);
  }
}

TEST(RequiredCallsRefusalTest, WhatCannotBeHonouredIsRefused) {
  const ModelFolder model(kTools);  // shows tools, but not how to call them
  const ModelFolder hermes(std::string(kTools) + "{# <tool_call> #}");
  EngineProcess unknown;
  EngineProcess engine;
  ASSERT_THAT(unknown.Load(model.path()).status, IsOk());
  ASSERT_THAT(engine.Load(hermes.path()).status, IsOk());
  modeld::v1::ChatRequest schema = WithTools(Chat(1), "required");
  schema.mutable_tools(1)->set_parameters_json(R"({"properties": {"x": {"type": "nothing"}}})");
  modeld::v1::ChatRequest structure = WithTools(Chat(1), "required");
  structure.mutable_structure()->set_json(true);
  modeld::v1::ChatRequest beams = WithTools(Chat(1), "required");
  beams.mutable_sampling()->set_num_beams(2);

  EXPECT_THAT(unknown.Chat(WithTools(Chat(1), "required")).status,
              HasReasonOf(Reason::kMethodNotSupported));
  const EngineProcess::Answer refused = engine.Chat(schema);
  EXPECT_THAT(refused.status, NamesField("tools[1].parameters_json"));
  EXPECT_THAT(std::string(refused.status.message()), HasSubstr("/properties/x"));
  EXPECT_THAT(engine.Chat(structure).status, NamesField("structure"));
  EXPECT_THAT(engine.Chat(beams).status, NamesField("tool_choice"));
}

}  // namespace
}  // namespace modeld
