#include "server/engine/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

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

// What a sanitizer keeps of memory that was given back counts too.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr int64_t kPeakMegabytesMax = 4000;
#else
constexpr int64_t kPeakMegabytesMax = 1000;
#endif

int64_t PeakMegabytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

// Ends the process: 0 when the template ended in an error with little memory. What it left behind
// ends with the process.
[[noreturn]] void RenderAndExit(const std::string& source) {
  const auto prompt = Render(source);
  const bool is_refused = HasReason(StatusOf(prompt), Reason::kInvalidField);
  std::fprintf(stderr, "%s, %ld MB\n", StatusOf(prompt).ToString().c_str(),
               static_cast<long>(PeakMegabytes()));
  std::_Exit(is_refused && PeakMegabytes() < kPeakMegabytesMax ? 0 : 1);
}

// Each would take many gigabytes, or hours, if nothing stopped it.
TEST(ChatTemplateTest, TemplatesThatMultiplyWhatTheyHaveEndInAnError) {
  const std::string big = "{% set big = 'x' * 1000000 %}";
  const std::string twice = "{% set ns = namespace(x='ab') %}{% for i in range(60) %}";
  const std::string nest =
      "{% set ns = namespace(x='ab', y='ab') %}{% for i in range(60) %}"
      "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  for (const std::string& source : {
           twice + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
           twice + "{% set ns.x = ns.x + ns.x %}{% endfor %}",
           twice + "{% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}",
           twice + "{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
           twice + "{% set ns.x = '%s%s' | format(ns.x, ns.x) %}{% endfor %}",
           twice + "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
           big + "{{ ([big] * 1000000) | join }}",
           big + "{{ ''.join([big] * 1000000) }}",
           big + "{{ big.join(['a'] * 1000000) }}",
           big + "{{ ['a', ['b']] | tojson(indent=big) }}",
           big + "{{ ([big] * 1000000) | string | length }}",
           big + "{{ ('a' ~ ([big] * 1000000)) | length }}",
           big + "{{ 'a'.ljust(100000, big) }}",
           nest + "{{ ns.x | tojson }}",
           nest + "{{ ns.x == ns.y }}",
           std::string("{{ '%1000000000d' | format(1) }}"),
           std::string("{{ '{:>1000000000}'.format('a') }}"),
           std::string("{{ 'a' * 10000000000 }}"),
       }) {
    EXPECT_EXIT(RenderAndExit(source), testing::ExitedWithCode(0), "") << source;
  }
}

// Otherwise each request would leave another thread and its memory behind.
TEST(ChatTemplateTest, TemplateThatTookTooMuchIsNotRenderedAgain) {
  const std::string source =
      "{% if bomb %}{{ ''.join(['x' * 1000000] * 1000000) }}{% else %}harmless{% endif %}";
  const auto render_twice = [&] {
    const auto chat_template = FromSource(source);
    const auto render = [&](const std::string& args) {
      return (*chat_template)->Render({.messages_json = kHello, .template_args_json = args});
    };
    const bool was_harmless = render("").ok();
    const bool was_refused = !render(R"({"bomb": true})").ok();
    std::fprintf(stderr, "%s\n", StatusOf(render("")).ToString().c_str());
    std::_Exit(was_harmless && was_refused ? 0 : 1);
  };

  EXPECT_EXIT(render_twice(), testing::ExitedWithCode(0), "once took more memory");
}

TEST(ChatTemplateTest, IntegersAndKeyOrderSurvive) {
  const auto prompt = Render("{{ z | tojson }}", R"({"z": {"b": 9007199254740993, "a": 1.0}})");

  ASSERT_THAT(prompt, IsOk());
  EXPECT_EQ(*prompt, R"({"b": 9007199254740993, "a": 1.0})");
}

}  // namespace
}  // namespace modeld
