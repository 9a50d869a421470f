// Answers in which marks stand around the reasoning and around calls.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "server/engine/chat/answer_format.h"
#include "server/engine/chat/answer_reader.h"
#include "server/engine/chat/call_output.h"
#include "server/engine/chat/call_reader.h"

namespace modeld {

// Reasoning is opened where the answer begins, and only there, by its mark; its closing mark ends
// it, or a special token that opens calls. White space beside marks is no part of what they mark
// off.
class MarkedAnswer final : public AnswerReader {
 public:
  // `format` and `tools` outlive the reader.
  MarkedAnswer(const AnswerFormat& format, const ToolSet& tools, uint64_t id_seed,
               bool in_reasoning)
      : format_(format),
        out_(tools, id_seed),
        in_reasoning_(in_reasoning),
        skips_space_(in_reasoning) {}

  void Put(const Symbol& symbol) override;
  void Finish() override;
  AnswerPiece Take() override;
  bool in_reasoning() const override { return in_reasoning_; }
  int complete_calls() const override { return out_.complete_calls(); }

 private:
  bool PutCalls(const Symbol& symbol);
  void PutReasoning(const Symbol& symbol);
  void PutText(const Symbol& symbol);
  void PutPlain(const Symbol& symbol, std::string& out);
  bool OpensCalls(const Symbol& symbol) const;

  const AnswerFormat& format_;
  CallOutput out_;
  AnswerPiece piece_;
  std::unique_ptr<CallReader> calls_;  // while a group of calls is read
  std::string pending_;                // of the group: text, if it is none
  std::string held_space_;             // goes out before what is no mark
  bool in_reasoning_;
  bool at_start_ = true;  // nothing but space and reasoning was there
  bool skips_space_;      // after a mark of reasoning
};

}  // namespace modeld
