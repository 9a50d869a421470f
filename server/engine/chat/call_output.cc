#include "server/engine/chat/call_output.h"

#include <utility>

namespace modeld {
namespace {

// Mistral's templates refuse ids of any other length and of anything but letters and digits.
constexpr int kIdLength = 9;

// splitmix64.
uint64_t NextRandom(uint64_t& state) {
  state += 0x9e3779b97f4a7c15;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

}  // namespace

void AppendToolCalls(std::vector<ToolCallPiece> more, std::vector<ToolCallPiece>& pieces) {
  for (ToolCallPiece& piece : more) {
    if (!pieces.empty() && pieces.back().index == piece.index) {
      pieces.back().arguments += piece.arguments;
      pieces.back().withdrawn |= piece.withdrawn;
    } else {
      pieces.push_back(std::move(piece));
    }
  }
}

bool CallOutput::Begin(std::string_view name, std::string_view id) {
  if (!tools_.Has(name)) return false;
  open_ = true;
  ++index_;
  pieces_.push_back(
      {.index = index_, .id = id.empty() ? NewId() : std::string(id), .name = std::string(name)});
  return true;
}

void CallOutput::Arguments(std::string_view json) {
  if (pieces_.empty()) pieces_.push_back({.index = index_});
  pieces_.back().arguments += json;
}

void CallOutput::End() {
  open_ = false;
  ++complete_calls_;
}

void CallOutput::Withdraw() {
  if (!std::exchange(open_, false)) return;
  if (pieces_.empty()) pieces_.push_back({.index = index_});
  pieces_.back().withdrawn = true;
}

std::vector<ToolCallPiece> CallOutput::Take() { return std::exchange(pieces_, {}); }

std::string CallOutput::NewId() {
  constexpr std::string_view kLetters =
      "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string id;
  for (int i = 0; i < kIdLength; ++i) id += kLetters[NextRandom(id_state_) % kLetters.size()];
  return id;
}

}  // namespace modeld
