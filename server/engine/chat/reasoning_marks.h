// How models mark what they think before they answer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace modeld {

struct ReasoningMarks {
  // What a chat template of such a model has in it.
  std::string_view evidence;
  std::string_view open;
  std::string_view close;
  // Around the answer itself; no part of it.
  std::vector<std::string_view> dropped;
};

// The marks that a chat template's source shows; null when it shows none.
const ReasoningMarks* ReasoningMarksOf(std::string_view template_source);

// Whether the answer to `prompt` begins inside the reasoning.
bool EndsInReasoning(std::string_view prompt, const ReasoningMarks& marks);

// What ends a reasoning that has become too long, in the model's own words.
std::string EndOfReasoning(const ReasoningMarks& marks);

}  // namespace modeld
