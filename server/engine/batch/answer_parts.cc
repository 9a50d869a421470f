#include "server/engine/batch/answer_parts.h"

#include <utility>

namespace modeld {

AnswerParts::AnswerParts(const AnswerPartsOptions& options)
    : options_(options), parser_(options.new_parser ? options.new_parser() : nullptr) {
  if (parser_) Force();
}

std::optional<int64_t> AnswerParts::TakeForced(const TokenRules& rules) {
  if (forced_.empty()) return std::nullopt;
  const int64_t id = forced_.front();
  const std::span<const uint32_t> mask = rules.mask;
  if (!mask.empty() && ((mask[id / 32] >> (id % 32)) & 1) == 0) return std::nullopt;
  forced_.pop_front();
  is_forcing_ = true;
  return id;
}

AnswerPiece AnswerParts::Put(std::string text, int64_t tokens) {
  if (!parser_) return {.text = std::move(text)};
  const bool was_in_reasoning = parser_->in_reasoning();
  AnswerPiece piece = parser_->Put(text);
  if (was_in_reasoning || parser_->in_reasoning()) reasoning_tokens_ += tokens;
  // The model may end its reasoning itself before it can be ended for it.
  if (!is_forcing_ && !parser_->in_reasoning()) forced_.clear();
  Force();
  return piece;
}

AnswerPiece AnswerParts::PutLast(std::string text, int64_t tokens) {
  AnswerPiece piece = Put(std::move(text), tokens);
  if (!parser_) return piece;
  AnswerPiece last = parser_->Finish();
  piece.text += last.text;
  piece.reasoning += last.reasoning;
  AppendToolCalls(std::move(last.tool_calls), piece.tool_calls);
  return piece;
}

// Once: what follows a reasoning that begins anew is the model's.
void AnswerParts::Force() {
  const bool is_too_long = options_.reasoning_tokens_max && parser_->in_reasoning() &&
                           reasoning_tokens_ >= *options_.reasoning_tokens_max;
  if (!is_too_long || std::exchange(was_forced_, true)) return;
  forced_.assign(options_.end_of_reasoning.begin(), options_.end_of_reasoning.end());
}

}  // namespace modeld
