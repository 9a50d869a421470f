// The parts of one choice's answer: what is reasoning and what is a call, and how long it thinks.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "server/engine/batch/logits_processors.h"
#include "server/engine/chat/answer_parser.h"
#include "server/engine/chat/answer_piece.h"

namespace modeld {

// How answers are taken apart.
struct AnswerPartsOptions {
  // Makes the parser of one choice; none: all is text. Called by Scheduler::Submit() or on the step
  // thread.
  std::function<std::unique_ptr<AnswerParser>()> new_parser;
  std::optional<int64_t> reasoning_tokens_max;
  // What ends the reasoning when it has so many tokens; the rest of the answer is the model's.
  std::vector<int64_t> end_of_reasoning;
  bool one_call = false;  // the answer ends behind its first call
};

// Belongs to the step thread.
class AnswerParts {
 public:
  explicit AnswerParts(const AnswerPartsOptions& options);

  // The token that comes next whatever the model says, to end a reasoning that is too long; where
  // `rules` do not allow it yet, within a character say, the model goes on first.
  std::optional<int64_t> TakeForced(const TokenRules& rules);

  // The parts of the text that `tokens` more tokens made certain; after the last text nothing
  // follows.
  AnswerPiece Put(std::string text, int64_t tokens);
  AnswerPiece PutLast(std::string text, int64_t tokens);

  int64_t reasoning_tokens() const { return reasoning_tokens_; }
  bool has_calls() const { return parser_ && parser_->complete_calls() > 0; }
  // Whether the answer ends here: what follows, and what is held back, is not wanted.
  bool ends_here() const { return options_.one_call && has_calls(); }

 private:
  void Force();

  const AnswerPartsOptions& options_;
  const std::unique_ptr<AnswerParser> parser_;
  int64_t reasoning_tokens_ = 0;
  std::deque<int64_t> forced_;
  bool is_forcing_ = false;  // the first of them was taken
  bool was_forced_ = false;
};

}  // namespace modeld
