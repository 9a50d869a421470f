// What is new in an answer: text, reasoning and calls of functions, apart from one another.
#pragma once

#include <string>
#include <vector>

namespace modeld {

// A piece of a call. Pieces with one index are one call: the first has id and name, the arguments
// follow one another.
struct ToolCallPiece {
  int index = 0;
  std::string id;
  std::string name;
  std::string arguments;   // JSON text
  bool withdrawn = false;  // the call turned out to be none: what was written for it is text

  bool operator==(const ToolCallPiece&) const = default;
};

struct AnswerPiece {
  std::string text;
  std::string reasoning;
  std::vector<ToolCallPiece> tool_calls;

  bool empty() const { return text.empty() && reasoning.empty() && tool_calls.empty(); }
};

// Appends pieces that follow; those of one call become one.
void AppendToolCalls(std::vector<ToolCallPiece> more, std::vector<ToolCallPiece>& pieces);

}  // namespace modeld
