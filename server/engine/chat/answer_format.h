// What the answers of one model look like, as its chat template shows.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/mark_scanner.h"
#include "server/engine/chat/reasoning_marks.h"

namespace modeld {

// Immutable and thread-safe.
class AnswerFormat {
 public:
  // Text is text.
  AnswerFormat() = default;
  // `is_special_token` says of a spelling whether it is a special token of the vocabulary. Without
  // `with_calls` what looks like a call is text.
  AnswerFormat(std::string_view template_source, bool with_calls,
               const std::function<bool(const std::string&)>& is_special_token);

  // gpt-oss: messages in channels.
  bool is_harmony() const { return is_harmony_; }
  const ReasoningMarks* reasoning() const { return reasoning_; }
  const CallStyle* calls() const { return calls_; }
  // How calls are written; null when that is not known, and without calls.
  const CallForm* call_form() const { return call_form_; }
  const std::vector<Mark>& marks() const { return marks_; }

  // How a special token stands in the text that an AnswerParser reads: as MarkTokenText() when it
  // is a mark, spelled out when it is a part of one; empty for others, which are no text.
  std::string TextOf(std::string_view special_token) const;

  // Whether the answer to a prompt begins inside the reasoning.
  bool EndsInReasoning(std::string_view prompt) const;
  // What ends a reasoning early; empty for a model without reasoning.
  std::string EndOfReasoning() const;

 private:
  bool is_harmony_ = false;
  const ReasoningMarks* reasoning_ = nullptr;
  const CallStyle* calls_ = nullptr;
  const CallForm* call_form_ = nullptr;
  std::vector<Mark> marks_;
};

}  // namespace modeld
