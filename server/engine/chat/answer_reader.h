// Tells the parts of an answer apart, symbol by symbol.
#pragma once

#include "server/engine/chat/answer_piece.h"
#include "server/engine/chat/mark_scanner.h"

namespace modeld {

// Every byte comes out again: in the text, in the reasoning, or as part of a complete call; but for
// marks and the white space beside them. One thread at a time.
class AnswerReader {
 public:
  virtual ~AnswerReader() = default;

  virtual void Put(const Symbol& symbol) = 0;
  // Nothing follows: a call that is not complete becomes text.
  virtual void Finish() = 0;
  // What is new since the last call.
  virtual AnswerPiece Take() = 0;

  virtual bool in_reasoning() const = 0;
  virtual int complete_calls() const = 0;
};

}  // namespace modeld
