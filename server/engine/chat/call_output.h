// Where the readers of calls write.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/chat/answer_piece.h"
#include "server/engine/chat/tool_set.h"

namespace modeld {

// Numbers the calls of one answer and keeps what is new of them. One thread at a time.
class CallOutput {
 public:
  // `tools` outlives the output. Ids are random, from `id_seed`.
  CallOutput(const ToolSet& tools, uint64_t id_seed) : tools_(tools), id_state_(id_seed) {}

  const ToolSet& tools() const { return tools_; }

  // Begins a call; an empty id means one of our own. False, and nothing happens, when no tool has
  // the name. No call is open before.
  bool Begin(std::string_view name, std::string_view id = {});
  // The next piece of the open call's arguments.
  void Arguments(std::string_view json);
  // The open call is complete.
  void End();
  // The open call, if there is one, is none.
  void Withdraw();

  bool has_open_call() const { return open_; }
  int complete_calls() const { return complete_calls_; }
  std::vector<ToolCallPiece> Take();

 private:
  std::string NewId();

  const ToolSet& tools_;
  uint64_t id_state_;
  bool open_ = false;
  int index_ = -1;
  int complete_calls_ = 0;
  std::vector<ToolCallPiece> pieces_;
};

}  // namespace modeld
