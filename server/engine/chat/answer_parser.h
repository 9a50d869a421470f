// Takes an answer apart while it comes: text, reasoning, calls of functions.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "server/engine/chat/answer_format.h"
#include "server/engine/chat/answer_piece.h"
#include "server/engine/chat/answer_reader.h"
#include "server/engine/chat/mark_scanner.h"
#include "server/engine/chat/tool_set.h"

namespace modeld {

// The pieces together are the same however the answer is cut. Holds back what may be the beginning
// of a mark, and what may be a call until its name is known. One thread at a time.
class AnswerParser {
 public:
  struct Options {
    uint64_t id_seed = 0;       // of the ids of calls
    bool in_reasoning = false;  // the prompt opened the reasoning
  };

  // `format` outlives the parser.
  AnswerParser(const AnswerFormat& format, std::shared_ptr<const ToolSet> tools, Options options);

  // UTF-8, with special tokens as AnswerFormat::TextOf() has them.
  AnswerPiece Put(std::string_view text);
  // Nothing follows.
  AnswerPiece Finish();

  bool in_reasoning() const { return reader_->in_reasoning(); }
  // Calls that were handed out as a whole.
  int complete_calls() const { return reader_->complete_calls(); }

 private:
  const std::shared_ptr<const ToolSet> tools_;
  MarkScanner scanner_;
  const std::unique_ptr<AnswerReader> reader_;
};

}  // namespace modeld
