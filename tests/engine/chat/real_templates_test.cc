// The chat templates of real models, which tests/support/real_templates.py fetches, show how each
// model writes; what they write is read back.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "server/engine/chat/answer_parser.h"
#include "server/engine/text/chat_template.h"
#include "tests/engine/chat/transcripts.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

struct RealTemplate {
  std::string name;
  std::string style;    // of calls
  std::string opening;  // of reasoning
  std::string end;      // of an answer; empty: the template cannot write calls
};

const RealTemplate kTemplates[] = {
    {"Bielik-11B-v3.0-Instruct", "hermes", "<think>", "<|im_end|>"},
    {"MiMo-VL", "hermes", "", "<|im_end|>"},
    {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes", "", "<|im_end|>"},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes", "", "<|im_end|>"},
    {"Qwen-QwQ-32B", "hermes", "<think>", "<|im_end|>"},
    {"Qwen-Qwen2.5-7B-Instruct", "hermes", "", "<|im_end|>"},
    {"Qwen-Qwen3-0.6B", "hermes", "<think>", "<|im_end|>"},
    {"Reka-Edge", "hermes", "<think>", "\n\n<sep>"},
    {"ibm-granite-granite-4.0", "hermes", "", "<|end_of_text|>"},
    {"ibm-granite-granite-4.1", "hermes", "", "<|end_of_text|>"},
    {"ByteDance-Seed-OSS", "qwen3-coder", "<seed:think>", "<seed:eos>"},
    {"NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "qwen3-coder", "<think>", "<|im_end|>"},
    {"Qwen3-Coder", "qwen3-coder", "", "<|im_end|>"},
    {"Qwen3.5-4B", "qwen3-coder", "<think>", "<|im_end|>"},
    {"StepFun3.5-Flash", "qwen3-coder", "<think>", "<|im_end|>"},
    {"meta-llama-Llama-3.1-8B-Instruct", "llama3", "", "<|eot_id|>"},
    {"meta-llama-Llama-3.2-3B-Instruct", "llama3", "", "<|eot_id|>"},
    {"meta-llama-Llama-3.3-70B-Instruct", "llama3", "", "<|eot_id|>"},
    {"meetkai-functionary-medium-v3.1", "llama3", "", "<|eom_id|>"},
    {"Mistral-Small-3.2-24B-Instruct-2506", "mistral", "", "<EOS>"},
    {"mistralai-Ministral-3-14B-Reasoning-2512", "mistral", "[THINK]", "<EOS>"},
    {"mistralai-Mistral-Nemo-Instruct-2407", "mistral", "", "<EOS>"},
    {"unsloth-mistral-Devstral-Small-2507", "mistral", "", "<EOS>"},
    {"deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek", "<think>", "<｜end▁of▁sentence｜>"},
    {"deepseek-ai-DeepSeek-V3.1", "deepseek", "<think>", "<｜end▁of▁sentence｜>"},
    {"deepseek-ai-DeepSeek-V3.2", "deepseek-dsml", "<think>", "<｜end▁of▁sentence｜>"},
    {"deepseek-ai-DeepSeek-V4", "deepseek-dsml", "<think>", "<｜end▁of▁sentence｜>"},
    {"deepseek-ai-DeepSeek-V4-Flash-0731", "deepseek-dsml", "<think>", "<｜end▁of▁sentence｜>"},
    {"moonshotai-Kimi-K2", "kimi", "", "<|im_end|>"},
    {"Kimi-K2-Instruct", "kimi", "", ""},
    {"Kimi-K2-Thinking", "kimi", "<think>", ""},
    {"GLM-4.6", "glm", "<think>", "<|observation|>"},
    {"GLM-4.7-Flash", "glm", "<think>", "<|observation|>"},
    {"Spark2.5", "glm", "<think>", "<｜end▁of▁sentence｜>"},
    {"inclusionai-ling-3.0-flash", "glm", "<think>", "<|role_end|>"},
    {"poolside-Laguna-S-2.1", "glm", "<think>", "</assistant>"},
    {"poolside-Laguna-XS-2.1", "glm", "<think>", "\n</assistant>"},
    {"MiniMax-M1", "tool-calls-list", "", "<end_of_sentence>"},
    {"MiniMax-M2", "minimax", "<think>", "[e~["},
    {"NVIDIA-Nemotron-Nano-v2", "toolcall-list", "<think>", "\n<SPECIAL_12>"},
    {"unsloth-Apriel-1.5", "tool-calls-list", "Here are my reasoning steps:", "\n<|end|>"},
    {"Apriel-1.6-15b-Thinker-fixed", "tool-calls-list",
     "Here are my reasoning steps:", "\n<|end|>"},
    {"openai-gpt-oss-120b", "", "", "<|call|>"},
};

constexpr char kUser[] = R"([{"role": "user", "content": "USER"}])";
constexpr char kCalling[] = R"([{"role": "user", "content": "USER"},
    {"role": "assistant", "content": "", "tool_calls": [
      {"id": "call00001", "type": "function", "function": {"name": "search",
       "arguments": {"query": "a \"b\"\n{c}", "limit": 7, "filter": {"k": [1, null, true]}}}}]},
    {"role": "tool", "tool_call_id": "call00001", "name": "search", "content": "RESULT"}])";
constexpr char kTools[] = R"([{"type": "function", "function": {"name": "search",
    "description": "Searches", "parameters": {"type": "object", "properties": {
      "query": {"type": "string", "description": "What"},
      "limit": {"type": "integer", "description": "How many"},
      "filter": {"type": "object", "description": "Which"}}, "required": ["query"]}}}])";

class RealTemplatesTest : public ::testing::TestWithParam<RealTemplate> {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("MODELD_TEST_TEMPLATES");  // NOLINT(concurrency-mt-unsafe)
    ASSERT_NE(folder, nullptr) << "tests/run sets MODELD_TEST_TEMPLATES to the folder of templates";
    std::ifstream file(std::string(folder) + "/" + GetParam().name + ".jinja", std::ios::binary);
    ASSERT_TRUE(file) << GetParam().name;
    source_.assign(std::istreambuf_iterator<char>(file), {});
    std::ofstream(folder_.path() + "/chat_template.jinja", std::ios::binary) << source_;
    std::ofstream(folder_.path() + "/tokenizer_config.json")
        << R"({"bos_token": "<BOS>", "eos_token": "<EOS>"})";
    auto chat_template = ChatTemplate::Load(folder_.path());
    ASSERT_THAT(chat_template, IsOk());
    template_ = *std::move(chat_template);
    format_ = AnswerFormat(source_, true, [](const std::string&) { return false; });
  }

  absl::StatusOr<std::string> Render(const std::string& messages,
                                     bool add_generation_prompt) const {
    return template_->Render({.messages_json = messages,
                              .tools_json = kTools,
                              .add_generation_prompt = add_generation_prompt});
  }

  TempDir folder_;
  std::string source_;
  std::unique_ptr<ChatTemplate> template_;
  AnswerFormat format_;
};

TEST_P(RealTemplatesTest, StyleAndReasoningAreTold) {
  EXPECT_EQ(format_.calls() == nullptr ? "" : format_.calls()->name, GetParam().style);
  EXPECT_EQ(format_.reasoning() == nullptr ? "" : format_.reasoning()->open, GetParam().opening);
  EXPECT_EQ(format_.is_harmony(), GetParam().name == "openai-gpt-oss-120b");
}

TEST_P(RealTemplatesTest, TheCallThatTheTemplateWritesIsReadBack) {
  const absl::StatusOr<std::string> written = Render(kCalling, false);
  if (GetParam().end.empty()) {
    // By list.append, which transformers refuses too.
    EXPECT_THAT(written, HasReasonOf(Reason::kInvalidField));
    return;
  }
  ASSERT_THAT(written, IsOk());
  const std::string& conversation = *written;
  // Behind the prompt, but for a reasoning that it opens and the template then leaves out.
  std::string prompt = Render(kUser, true).value_or("");
  if (!conversation.starts_with(prompt)) prompt.resize(prompt.rfind(GetParam().opening));
  ASSERT_TRUE(conversation.starts_with(prompt)) << prompt;
  std::string answer = conversation.substr(prompt.size());
  answer.resize(std::min(answer.find(GetParam().end), answer.size()));
  const ReasoningMarks* reasoning = format_.reasoning();
  const bool closes_first = reasoning != nullptr && answer.starts_with(reasoning->close);
  SCOPED_TRACE(answer);

  AnswerParser parser(format_, TestTools(),
                      {.in_reasoning = closes_first || format_.EndsInReasoning(prompt)});
  AnswerPiece piece = parser.Put(answer);
  const AnswerPiece rest = parser.Finish();

  EXPECT_EQ(piece.text + rest.text, "");
  AppendToolCalls(rest.tool_calls, piece.tool_calls);
  ASSERT_EQ(parser.complete_calls(), 1);
  EXPECT_EQ(piece.tool_calls.at(0).name, "search");
  const Json arguments = Json::parse(piece.tool_calls[0].arguments);
  EXPECT_EQ(arguments.at("query"), "a \"b\"\n{c}");
  EXPECT_EQ(arguments.at("limit"), 7);
  EXPECT_TRUE(arguments.contains("filter"));
}

INSTANTIATE_TEST_SUITE_P(Templates, RealTemplatesTest, ::testing::ValuesIn(kTemplates),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::ranges::replace_if(
                               name, [](char c) { return isalnum(c) == 0; }, '_');
                           return name;
                         });

}  // namespace
}  // namespace modeld
