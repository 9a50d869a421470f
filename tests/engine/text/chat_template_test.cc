#include "server/engine/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::HasSubstr;

constexpr char kHello[] = R"([{"role": "user", "content": "hello"}])";

MATCHER_P(IsOkAndHolds, text, "is OK and holds " + std::string(text)) {
  *result_listener << (arg.ok() ? *arg : arg.status().ToString());
  return arg.ok() && *arg == text;
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> FromSource(const std::string& source) {
  TemporarySnapshot snapshot;
  snapshot.Write("chat_template.jinja", source);
  return ChatTemplate::Load(snapshot.path());
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> FromConfig(const std::string& config) {
  TemporarySnapshot snapshot;
  snapshot.Write("tokenizer_config.json", config);
  return ChatTemplate::Load(snapshot.path());
}

absl::StatusOr<std::string> Render(const std::string& source, const std::string& args = "") {
  auto chat_template = FromSource(source);
  EXPECT_THAT(chat_template, IsOk());
  if (!chat_template.ok()) return chat_template.status();
  return (*chat_template)->Render({.messages_json = kHello, .template_args_json = args});
}

TEST(ChatTemplateTest, FileComesBeforeTheConfiguration) {
  TemporarySnapshot snapshot;
  snapshot.Write("chat_template.jinja", "file");
  snapshot.Write("tokenizer_config.json", R"({"chat_template": "config"})");

  const auto chat_template = ChatTemplate::Load(snapshot.path());

  ASSERT_THAT(chat_template, IsOk());
  EXPECT_THAT((*chat_template)->Render({.messages_json = kHello}), IsOkAndHolds("file"));
}

TEST(ChatTemplateTest, ConfigurationHoldsOneTemplateAsAString) {
  const auto chat_template = FromConfig(
      R"({"bos_token": "<s>", "chat_template": "{{ bos_token }}{{ messages[0].content }}"})");

  ASSERT_THAT(chat_template, IsOk());
  EXPECT_THAT((*chat_template)->Render({.messages_json = kHello}), IsOkAndHolds("<s>hello"));
}

TEST(ChatTemplateTest, ToolsChooseTheTemplateForTools) {
  const auto chat_template = FromConfig(R"({"chat_template": [
      {"name": "default", "template": "plain"},
      {"name": "rag", "template": "{% broken"},
      {"name": "tool_use", "template": "with {{ tools | length }}"}]})");

  ASSERT_THAT(chat_template, IsOk());
  EXPECT_THAT((*chat_template)->Render({.messages_json = kHello}), IsOkAndHolds("plain"));
  EXPECT_THAT((*chat_template)->Render({.messages_json = kHello, .tools_json = "[{}, {}]"}),
              IsOkAndHolds("with 2"));
}

TEST(ChatTemplateTest, NoTemplateHasItsOwnReason) {
  TemporarySnapshot snapshot;

  EXPECT_THAT(ChatTemplate::Load(snapshot.path()), HasReasonOf(Reason::kNoChatTemplate));
  EXPECT_THAT(FromConfig(R"({"chat_template": null})"), HasReasonOf(Reason::kNoChatTemplate));
}

TEST(ChatTemplateTest, HostileFilesAreInvalidRepositories) {
  for (const char* config : {"{", R"({"chat_template": 1})", R"({"chat_template": [1]})",
                             R"({"chat_template": [{"name": 1, "template": "x"}]})",
                             R"({"chat_template": [{"name": "default"}]})"}) {
    EXPECT_THAT(FromConfig(config), HasReasonOf(Reason::kInvalidRepository)) << config;
  }
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{{ (";
  for (const std::string& source :
       {std::string("{% if %}"), std::string("{% for x in %}"), std::string("{{ 'a"),
        std::string("\xff"), nested, "{{ " + std::string(100'000, '(') + " }}",
        "{{ " + std::string(250'000, '-') + " }}", "{{ " + std::string(250'000, '[') + " }}",
        std::string(5 << 20, 'x')}) {
    EXPECT_THAT(FromSource(source), HasReasonOf(Reason::kInvalidRepository))
        << source.substr(0, 40);
  }
}

TEST(ChatTemplateTest, RequestsThatAreNotJsonNameTheirField) {
  const auto chat_template = FromSource("x");
  ASSERT_THAT(chat_template, IsOk());
  const ChatTemplate& x = **chat_template;

  for (const char* messages : {"", "{", "{}", "[1]", "[]", "[\"\xff\"]"}) {
    EXPECT_THAT(x.Render({.messages_json = messages}), NamesField("messages")) << messages;
  }
  EXPECT_THAT(x.Render({.messages_json = std::string(100'000, '[')}), NamesField("messages"));
  for (const char* tools : {"{", "{}", "[1]"}) {
    EXPECT_THAT(x.Render({.messages_json = kHello, .tools_json = tools}), NamesField("tools"));
  }
  for (const char* args : {"{", "[]", R"({"messages": []})"}) {
    EXPECT_THAT(x.Render({.messages_json = kHello, .template_args_json = args}),
                NamesField("template_args"));
  }
}

TEST(ChatTemplateTest, RaisedMessageReachesTheCaller) {
  const auto prompt = Render(
      "{% macro m() %}{{ raise_exception('Roles must ' ~ 'alternate') }}{% endmacro %}{{ m() }}");

  EXPECT_THAT(prompt, HasReasonOf(Reason::kInvalidField));
  EXPECT_EQ(std::string(prompt.status().message()),
            "messages: chat template: Roles must alternate");
}

TEST(ChatTemplateTest, EndlessTemplateRunsOutOfSteps) {
  const auto prompt = Render(
      "{% for a in range(10000) %}{% for b in range(10000) %}{% set x = a %}{% endfor %}{% endfor "
      "%}");

  EXPECT_THAT(prompt, HasReasonOf(Reason::kInvalidField));
  EXPECT_THAT(std::string(prompt.status().message()), HasSubstr("steps"));
}

TEST(ChatTemplateTest, HugePromptIsRefused) {
  const auto prompt =
      Render("{% set x = 'abcdefgh' * 10000 %}{% for a in range(1000) %}{{ x }}{% endfor %}");

  EXPECT_THAT(prompt, HasReasonOf(Reason::kInvalidField));
  EXPECT_THAT(std::string(prompt.status().message()), HasSubstr("longer than"));
}

TEST(ChatTemplateTest, EndlessRecursionIsRefused) {
  EXPECT_THAT(Render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
              HasReasonOf(Reason::kInvalidField));
}

// Lists within lists, as deep as the steps allow: printing, comparing and dropping them is
// recursive.
TEST(ChatTemplateTest, DeeplyNestedValuesDoNotEndTheProcess) {
  const std::string nest =
      "{% set ns = namespace(x=[]) %}{% for a in range(10000) %}{% for b in range(100) %}"
      "{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";

  EXPECT_THAT(Render(nest + "{{ ns.x | tojson }}"), HasReasonOf(Reason::kInvalidField));
  EXPECT_THAT(Render(nest + "ok"), IsOk());
}

TEST(ChatTemplateTest, IntegersAndKeyOrderSurvive) {
  const auto prompt = Render("{{ z | tojson }}", R"({"z": {"b": 9007199254740993, "a": 1.0}})");

  ASSERT_THAT(prompt, IsOk());
  EXPECT_EQ(*prompt, R"({"b": 9007199254740993, "a": 1.0})");
}

}  // namespace
}  // namespace modeld
