#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>

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

std::unique_ptr<ChatTemplate> FromSource(const std::string& name, const std::string& source) {
  TemporarySnapshot snapshot;
  snapshot.Write("chat_template.jinja", source);
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
    if (chat_template == nullptr) {
      chat_template = FromSource(name, ReadTextData("templates/" + name + ".jinja"));
    }
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

// Templates of real models, which tests/support/real_templates.py fetches.
class RealTemplatesTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(setenv("TZ", "UTC", 1), 0);
    const char* folder = std::getenv("MODELD_TEST_TEMPLATES");  // NOLINT(concurrency-mt-unsafe)
    ASSERT_NE(folder, nullptr) << "tests/run sets MODELD_TEST_TEMPLATES to the folder of templates";
    folder_ = folder;
  }

  std::unique_ptr<ChatTemplate> Load(const std::string& name) const {
    std::ifstream file(folder_ + "/" + name + ".jinja", std::ios::binary);
    EXPECT_TRUE(file) << name;
    return FromSource(name, {std::istreambuf_iterator<char>(file), {}});
  }

 private:
  std::string folder_;
};

// Some prompts of these render with ours alone: the reference fails on `for x in none` and on
// `map() | tojson`.
const std::set<std::string> kOnlyTheReferenceRefuses = {
    "CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "llama-cpp-deepseek-r1"};

TEST_F(RealTemplatesTest, PromptsEqualTransformersToTheByte) {
  const Json goldens = Json::parse(ReadTextData("prompts.json"));
  const Json real = Json::parse(ReadTextData("real_prompts.json"));
  const std::vector<std::string> inputs = real.at("inputs");
  int equal = 0;
  int refused_by_both = 0;
  int refused_by_reference = 0;
  for (const auto& [name, golden] : real.at("templates").items()) {
    const auto chat_template = Load(name);
    ASSERT_NE(chat_template, nullptr) << name;
    for (size_t i = 0; i < inputs.size(); ++i) {
      SCOPED_TRACE(name + " " + inputs[i]);
      const Json& input = goldens.at("inputs").at(inputs[i]);
      const auto prompt = chat_template->Render(ToInput(goldens, input));
      const std::string expected = golden.at("prompts")[i];
      if (expected.ends_with("Error")) {
        EXPECT_TRUE(!prompt.ok() || kOnlyTheReferenceRefuses.contains(name)) << expected;
        ++(prompt.ok() ? refused_by_reference : refused_by_both);
        continue;
      }
      ASSERT_THAT(prompt, IsOk());
      TextHash hash;
      hash.Add(*prompt);
      EXPECT_EQ(hash.Hex(), expected);
      ++equal;
    }
  }
  EXPECT_EQ(real.at("templates").size(), 70U);
  EXPECT_EQ(equal, 4532);
  EXPECT_EQ(refused_by_both, 628);
  EXPECT_EQ(refused_by_reference, 160);
}

}  // namespace
}  // namespace modeld
