#include "server/engine/chat/reasoning_marks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace modeld {

const ReasoningMarks* ReasoningMarksOf(std::string_view template_source) {
  // The first whose evidence is there: the general ones come last.
  static const std::vector<ReasoningMarks> kMarks = {
      // Gemma 4
      {"<|channel>thought", "<|channel>thought", "<channel|>", {}},
      // Command R7B and A
      {"<|START_THINKING|>",
       "<|START_THINKING|>",
       "<|END_THINKING|>",
       {"<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"}},
      // Kimi K3, whose template makes these of their parts
      {"<|end_of_msg|>",
       "<|open|>think<|sep|>",
       "<|close|>think<|sep|>",
       {"<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"}},
      // Solar
      {"<|begin|>assistant", "<|think|>", "<|end|><|begin|>assistant", {"<|content|>"}},
      {" to=self<|message|>",
       " to=self<|message|>",
       "<|eom|><|start|>assistant",
       {" to=user<|message|>"}},
      // Apriel
      {"[BEGIN FINAL RESPONSE]",
       "Here are my reasoning steps:",
       "[BEGIN FINAL RESPONSE]",
       {"[END FINAL RESPONSE]"}},
      // Magistral, Ministral
      {"[/THINK]", "[THINK]", "[/THINK]", {}},
      // Seed
      {"</seed:think>", "<seed:think>", "</seed:think>", {}},
      // MiniMax M3
      {"</mm:think>", "<mm:think>", "</mm:think>", {}},
      // Hunyuan, whose template appends the suffix
      {"'</think{}>'", "<think:opensource>", "</think:opensource>", {}},
      // Granite 3
      {"<response></response>", "<think>", "</think>", {"<response>", "</response>"}},
      // DeepSeek, Qwen, GLM, Kimi K2 and most others
      {"</think>", "<think>", "</think>", {}},
      {"<think>", "<think>", "</think>", {}},
  };
  const auto marks = std::ranges::find_if(kMarks, [template_source](const ReasoningMarks& m) {
    return template_source.find(m.evidence) != std::string_view::npos;
  });
  return marks == kMarks.end() ? nullptr : &*marks;
}

bool EndsInReasoning(std::string_view prompt, const ReasoningMarks& marks) {
  const size_t last = prompt.find_last_not_of(" \n\r\t");
  return last != std::string_view::npos && prompt.substr(0, last + 1).ends_with(marks.open);
}

std::string EndOfReasoning(const ReasoningMarks& marks) {
  return absl::StrCat("\n", std::string(marks.close), "\n\n");
}

}  // namespace modeld
