#include "server/engine/chat/marked_answer.h"

#include <algorithm>
#include <utility>

namespace modeld {

void MarkedAnswer::Put(const Symbol& symbol) {
  if (calls_ && PutCalls(symbol)) return;
  if (in_reasoning_) {
    PutReasoning(symbol);
  } else {
    PutText(symbol);
  }
}

// Whether the symbol belongs to the calls.
bool MarkedAnswer::PutCalls(const Symbol& symbol) {
  switch (calls_->Put(symbol, out_)) {
    case CallReader::Step::kPending:
      pending_ += symbol.text();
      return true;
    case CallReader::Step::kSettled:
      pending_.clear();
      return true;
    case CallReader::Step::kLeft:
      break;
    case CallReader::Step::kBroken:
      out_.Withdraw();
      piece_.text += pending_;
      break;
  }
  pending_.clear();
  calls_.reset();
  return false;
}

void MarkedAnswer::PutReasoning(const Symbol& symbol) {
  const bool opens_calls = symbol.is_token && OpensCalls(symbol);
  if (symbol.mark != format_.reasoning()->close && !opens_calls) {
    PutPlain(symbol, piece_.reasoning);
    return;
  }
  in_reasoning_ = false;
  skips_space_ = true;
  held_space_.clear();
  if (opens_calls) PutText(symbol);
}

void MarkedAnswer::PutText(const Symbol& symbol) {
  const ReasoningMarks* reasoning = format_.reasoning();
  if (reasoning != nullptr && !symbol.is_byte()) {
    if (at_start_ && symbol.mark == reasoning->open) {
      in_reasoning_ = true;
      skips_space_ = true;
      held_space_.clear();
      return;
    }
    if (std::ranges::find(reasoning->dropped, symbol.mark) != reasoning->dropped.end()) return;
  }
  if (OpensCalls(symbol)) {
    calls_ = format_.calls()->make_reader();
    pending_ = std::exchange(held_space_, {});
    at_start_ = false;
    skips_space_ = false;
    PutCalls(symbol);
    return;
  }
  if (!symbol.is_space()) at_start_ = false;
  PutPlain(symbol, piece_.text);
}

void MarkedAnswer::PutPlain(const Symbol& symbol, std::string& out) {
  if (symbol.is_space()) {
    if (!skips_space_) held_space_ += symbol.byte;
    return;
  }
  skips_space_ = false;
  out += std::exchange(held_space_, {});
  out += symbol.text();
}

bool MarkedAnswer::OpensCalls(const Symbol& symbol) const {
  const CallStyle* style = format_.calls();
  if (style == nullptr) return false;
  if (symbol.is_byte()) {
    return at_start_ && style->opening_bytes.find(symbol.byte) != std::string_view::npos;
  }
  return std::ranges::find(style->opening_marks, symbol.mark) != style->opening_marks.end();
}

void MarkedAnswer::Finish() {
  if (calls_ && !calls_->Finish(out_)) {
    out_.Withdraw();
    piece_.text += pending_;
  }
  calls_.reset();
  pending_.clear();
  (in_reasoning_ ? piece_.reasoning : piece_.text) += std::exchange(held_space_, {});
}

AnswerPiece MarkedAnswer::Take() {
  AnswerPiece piece = std::exchange(piece_, {});
  piece.tool_calls = out_.Take();
  return piece;
}

}  // namespace modeld
