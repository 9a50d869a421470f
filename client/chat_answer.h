// What modelctl shows of the answer to a chat, and what it keeps of it for the next turn.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"

namespace modeld {

// Gathers one answer from its stream. What Add() and End() return is to be printed.
class ChatAnswer {
 public:
  // Reasoning is shown, dimmed, on a terminal only: what reads a pipe wants the answer.
  enum class Reasoning { kHidden, kDimmed };

  explicit ChatAnswer(Reasoning reasoning);

  std::string Add(const v1::GenerateResponse& piece);
  // Ends the line, and tells the calls of functions, one on a line.
  std::string End();

  // As a message of the conversation; calls that were withdrawn are not in it.
  const v1::ChatMessage& message() const { return message_; }

 private:
  std::string EndReasoning();

  const Reasoning reasoning_;
  v1::ChatMessage message_;
  std::vector<v1::ToolCall> calls_;  // by their index
  bool is_dimmed_ = false;
};

// The tools of a JSON list as OpenAI's API takes it: {"type": "function", "function": {"name",
// "description", "parameters"}}, or the inner objects alone; one object counts as a list of one.
// INVALID_ARGUMENT for anything else.
absl::StatusOr<std::vector<v1::Tool>> ParseTools(std::string_view json);

}  // namespace modeld
