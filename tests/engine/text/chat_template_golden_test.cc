#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <map>

#include "server/engine/text/chat_template.h"
#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using Json = nlohmann::ordered_json;

ChatTemplate::Input ToInput(const Json& goldens, const Json& input) {
  return {
      .messages_json = input.at("messages").dump(),
      .tools_json = input.at("tools").is_null() ? "" : input.at("tools").dump(),
      .template_args_json = input.at("args").dump(),
      .add_generation_prompt = input.at("add_generation_prompt"),
      .now = std::chrono::system_clock::time_point(
          std::chrono::seconds(goldens.at("now_unix_s").get<int64_t>())),
  };
}

std::unique_ptr<ChatTemplate> Load(const std::string& name) {
  TemporarySnapshot snapshot;
  snapshot.Copy("templates/" + name + ".jinja", "chat_template.jinja");
  snapshot.Write("tokenizer_config.json",
                 R"({"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}})");
  auto chat_template = ChatTemplate::Load(snapshot.path());
  EXPECT_THAT(chat_template, IsOk()) << name;
  return chat_template.ok() ? *std::move(chat_template) : nullptr;
}

// What transformers refuses, ours refuses too, and with the same words when the template has
// spoken.
TEST(ChatTemplateGoldenTest, PromptsEqualTransformersToTheByte) {
  ASSERT_EQ(setenv("TZ", "UTC", 1), 0);
  const Json goldens = Json::parse(ReadTextData("prompts.json"));
  std::map<std::string, std::unique_ptr<ChatTemplate>> templates;
  int prompts = 0;
  for (const Json& golden : goldens.at("prompts")) {
    const std::string name = golden.at("template");
    auto& chat_template = templates[name];
    if (chat_template == nullptr) chat_template = Load(name);
    ASSERT_NE(chat_template, nullptr);
    const std::string input = golden.at("input");
    SCOPED_TRACE(name + " " + input);

    const auto prompt = chat_template->Render(ToInput(goldens, goldens.at("inputs").at(input)));

    if (golden.contains("prompt")) {
      ASSERT_THAT(prompt, IsOk());
      EXPECT_EQ(*prompt, golden.at("prompt").get<std::string>());
      ++prompts;
      continue;
    }
    EXPECT_THAT(prompt, HasReasonOf(Reason::kInvalidField));
    const std::string error = golden.at("error");
    const std::string raised = "TemplateError: ";
    if (error.starts_with(raised)) {
      EXPECT_EQ(std::string(prompt.status().message()),
                "messages: chat template: " + error.substr(raised.size()));
    }
  }
  EXPECT_GT(prompts, 700);
}

}  // namespace
}  // namespace modeld
