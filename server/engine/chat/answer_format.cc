#include "server/engine/chat/answer_format.h"

#include <algorithm>

#include "server/engine/chat/harmony_answer.h"

namespace modeld {
namespace {

bool IsHarmony(std::string_view template_source) {
  return template_source.find("<|channel|>") != std::string_view::npos &&
         template_source.find("<|message|>") != std::string_view::npos;
}

const CallForm* FormOf(std::string_view template_source, bool is_harmony, const CallStyle* style) {
  if (is_harmony) return &HarmonyCallForm();
  if (style == nullptr) return nullptr;
  const auto form = std::ranges::find_if(style->forms, [template_source](const CallForm& f) {
    return template_source.find(f.evidence) != std::string_view::npos;
  });
  return form == style->forms.end() ? nullptr : &*form;
}

}  // namespace

AnswerFormat::AnswerFormat(std::string_view template_source, bool with_calls,
                           const std::function<bool(const std::string&)>& is_special_token)
    : is_harmony_(IsHarmony(template_source)) {
  std::vector<std::string_view> spellings;
  if (is_harmony_) {
    spellings = HarmonyMarks();
  } else {
    reasoning_ = ReasoningMarksOf(template_source);
    if (with_calls) calls_ = CallStyleOf(template_source);
  }
  if (with_calls) call_form_ = FormOf(template_source, is_harmony_, calls_);
  if (reasoning_ != nullptr) {
    spellings = reasoning_->dropped;
    spellings.push_back(reasoning_->open);
    spellings.push_back(reasoning_->close);
  }
  if (calls_ != nullptr) {
    spellings.insert(spellings.end(), calls_->marks.begin(), calls_->marks.end());
  }
  for (const std::string_view spelling : spellings) {
    std::string mark(spelling);
    const bool is_token = is_special_token(mark);
    marks_.push_back({.spelling = std::move(mark), .is_special_token = is_token});
  }
}

std::string AnswerFormat::TextOf(std::string_view special_token) const {
  bool is_part = false;
  for (size_t i = 0; i < marks_.size(); ++i) {
    if (marks_[i].spelling == special_token) return MarkTokenText(i);
    is_part |= marks_[i].spelling.find(special_token) != std::string::npos;
  }
  return is_part ? std::string(special_token) : "";
}

bool AnswerFormat::EndsInReasoning(std::string_view prompt) const {
  return reasoning_ != nullptr && modeld::EndsInReasoning(prompt, *reasoning_);
}

std::string AnswerFormat::EndOfReasoning() const {
  if (is_harmony_) return std::string(kEndOfHarmonyReasoning);
  return reasoning_ == nullptr ? "" : modeld::EndOfReasoning(*reasoning_);
}

}  // namespace modeld
