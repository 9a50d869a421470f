#include "server/engine/chat/mark_scanner.h"

#include <algorithm>
#include <utility>

namespace modeld {
namespace {

constexpr char kTokenByte = '\xff';
constexpr unsigned char kFirstIndex = 0x80;

}  // namespace

std::string MarkTokenText(size_t index) {
  return {kTokenByte, static_cast<char>(kFirstIndex + index)};
}

MarkScanner::MarkScanner(const std::vector<Mark>& marks) : marks_(marks) {
  for (const Mark& mark : marks_) {
    if (!mark.is_special_token) first_bytes_ += mark.spelling.front();
  }
}

void MarkScanner::Put(std::string_view text, const OnSymbol& on_symbol) {
  for (const char c : text) {
    if (after_token_byte_) {
      after_token_byte_ = false;
      const size_t index = static_cast<unsigned char>(c) - kFirstIndex;
      Finish(on_symbol);
      if (index < marks_.size()) {
        on_symbol({.mark = marks_[index].spelling, .is_token = true});
      } else {
        PutByte(c, on_symbol);
      }
    } else if (c == kTokenByte) {
      after_token_byte_ = true;
    } else {
      PutByte(c, on_symbol);
    }
  }
}

void MarkScanner::PutByte(char c, const OnSymbol& on_symbol) {
  if (held_.empty() && first_bytes_.find(c) == std::string::npos) {
    on_symbol({.byte = c});
    return;
  }
  held_ += c;
  while (!held_.empty()) {
    const auto mark = std::ranges::find_if(marks_, [this](const Mark& m) {
      return !m.is_special_token && m.spelling.starts_with(held_);
    });
    if (mark != marks_.end()) {
      if (mark->spelling.size() != held_.size()) return;
      held_.clear();
      on_symbol({.mark = mark->spelling});
      return;
    }
    const char first = held_.front();
    held_.erase(0, 1);
    on_symbol({.byte = first});
  }
}

void MarkScanner::Finish(const OnSymbol& on_symbol) {
  for (const char c : std::exchange(held_, {})) on_symbol({.byte = c});
}

}  // namespace modeld
