// Answers in OpenAI's harmony format: messages in channels, as gpt-oss writes them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/chat/answer_reader.h"
#include "server/engine/chat/call_form.h"
#include "server/engine/chat/call_output.h"
#include "server/engine/chat/json_call.h"

namespace modeld {

std::vector<std::string_view> HarmonyMarks();

// A message to a function, which ends the generation.
const CallForm& HarmonyCallForm();
// Around an analysis that comes before.
inline constexpr std::string_view kHarmonyReasoning = "<|channel|>analysis<|message|>";
inline constexpr std::string_view kHarmonyReasoningEnd = "<|end|><|start|>assistant";

// What ends the analysis and begins the final message.
inline constexpr std::string_view kEndOfHarmonyReasoning =
    "<|end|><|start|>assistant<|channel|>final<|message|>";

// The channel "analysis" is reasoning, "final" and what "commentary" says to the user is text, and
// a message to a function is a call. Messages of a kind are a line feed apart. What keeps to no
// rule of the format is text. The prompt ends with "<|start|>assistant".
class HarmonyAnswer final : public AnswerReader {
 public:
  // `tools` outlives the reader.
  HarmonyAnswer(const ToolSet& tools, uint64_t id_seed) : out_(tools, id_seed) {}

  void Put(const Symbol& symbol) override;
  void Finish() override;
  AnswerPiece Take() override;
  bool in_reasoning() const override { return at_ == At::kReasoning; }
  int complete_calls() const override { return out_.complete_calls(); }

 private:
  enum class At { kHeader, kText, kReasoning, kCall, kAfterCall, kOutside };

  void PutHeader(const Symbol& symbol);
  bool MayBeHeader() const;
  void BeginMessage();
  void BeginText(At at);
  void PutCall(const Symbol& symbol);
  void GiveUp();
  bool EndsMessage(const Symbol& symbol);

  CallOutput out_;
  AnswerPiece piece_;
  At at_ = At::kHeader;
  std::string pending_;   // header, and arguments of a call: text, if they are none
  std::string function_;  // of the call at hand
  JsonArguments arguments_;
  bool has_text_ = false;
  bool has_reasoning_ = false;
};

}  // namespace modeld
