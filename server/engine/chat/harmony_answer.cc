#include "server/engine/chat/harmony_answer.h"

#include <algorithm>
#include <utility>

namespace modeld {
namespace {

constexpr std::string_view kStart = "<|start|>";
constexpr std::string_view kChannel = "<|channel|>";
constexpr std::string_view kConstrain = "<|constrain|>";
constexpr std::string_view kMessage = "<|message|>";
constexpr std::string_view kEnd = "<|end|>";
constexpr std::string_view kCall = "<|call|>";
constexpr std::string_view kReturn = "<|return|>";

constexpr size_t kHeaderBytesMax = 300;

// The word that follows `before` in a header; empty when it is not there.
std::string_view WordAfter(std::string_view before, std::string_view header) {
  const size_t at = header.find(before);
  if (at == std::string_view::npos) return "";
  const std::string_view rest = header.substr(at + before.size());
  return rest.substr(0, rest.find_first_of(" \n\r\t<"));
}

std::string_view Without(std::string_view prefix, std::string_view text) {
  if (text.starts_with(prefix)) text.remove_prefix(prefix.size());
  return text;
}

// Whether one is the beginning of the other.
bool Agrees(std::string_view a, std::string_view b) { return a.starts_with(b) || b.starts_with(a); }

}  // namespace

std::vector<std::string_view> HarmonyMarks() {
  return {kStart, kChannel, kConstrain, kMessage, kEnd, kCall, kReturn};
}

const CallForm& HarmonyCallForm() {
  static constexpr CallForm kForm = {.head = "<|channel|>commentary to=functions.",
                                     .middle = " <|constrain|>json<|message|>",
                                     .is_one_call = true};
  return kForm;
}

void HarmonyAnswer::Put(const Symbol& symbol) {
  switch (at_) {
    case At::kHeader:
      PutHeader(symbol);
      return;
    case At::kCall:
      PutCall(symbol);
      return;
    case At::kOutside:
      if (symbol.is_space()) return;
      break;
    case At::kAfterCall:
      if (symbol.is_space() || EndsMessage(symbol)) return;
      break;
    case At::kText:
    case At::kReasoning:
      if (EndsMessage(symbol)) return;
      break;
  }
  if (symbol.mark == kStart || symbol.mark == kChannel) {
    at_ = At::kHeader;
    pending_ = symbol.mark;
    return;
  }
  if (at_ == At::kOutside || at_ == At::kAfterCall) BeginText(At::kText);
  (at_ == At::kReasoning ? piece_.reasoning : piece_.text) += symbol.text();
}

// Notes the end of the message when the symbol is one.
bool HarmonyAnswer::EndsMessage(const Symbol& symbol) {
  const bool ends = symbol.mark == kEnd || symbol.mark == kCall || symbol.mark == kReturn;
  if (ends) at_ = At::kOutside;
  return ends;
}

void HarmonyAnswer::PutHeader(const Symbol& symbol) {
  if (symbol.mark == kMessage) {
    BeginMessage();
    return;
  }
  const bool begins_anew = symbol.mark == kStart;
  const bool ends = symbol.mark == kEnd || symbol.mark == kCall || symbol.mark == kReturn;
  if (!begins_anew && !ends) {
    pending_ += symbol.text();
    if (!MayBeHeader()) GiveUp();
    return;
  }
  if (!pending_.empty()) GiveUp();
  at_ = At::kOutside;
  if (begins_anew) Put(symbol);
}

// Before the channel stands the role, which the first message has in the prompt, and a recipient.
bool HarmonyAnswer::MayBeHeader() const {
  if (pending_.size() > kHeaderBytesMax) return false;
  std::string_view rest = pending_;
  if (rest.starts_with(kStart)) {
    rest.remove_prefix(kStart.size());
    if (!Agrees(rest, "assistant")) return false;
    rest = Without("assistant", rest);
    if (std::string_view("assistant").starts_with(rest)) return true;
  }
  rest = rest.substr(std::min(rest.find_first_not_of(" \n\r\t"), rest.size()));
  return Agrees(rest, "to=") || Agrees(rest, kChannel);
}

void HarmonyAnswer::BeginMessage() {
  const std::string_view channel = WordAfter(kChannel, pending_);
  const std::string_view recipient = WordAfter("to=", pending_);
  function_ = Without("functions.", recipient);
  if (out_.tools().Has(function_)) {
    pending_ += kMessage;
    arguments_ = {};
    at_ = At::kCall;
  } else if (channel == "analysis") {
    BeginText(At::kReasoning);
  } else if (recipient.empty() && (channel == "final" || channel == "commentary")) {
    BeginText(At::kText);
  } else {
    pending_ += kMessage;
    GiveUp();
  }
}

void HarmonyAnswer::BeginText(At at) {
  const bool is_reasoning = at == At::kReasoning;
  const bool has_before = std::exchange(is_reasoning ? has_reasoning_ : has_text_, true);
  if (has_before) (is_reasoning ? piece_.reasoning : piece_.text) += '\n';
  at_ = at;
  pending_.clear();
}

void HarmonyAnswer::PutCall(const Symbol& symbol) {
  switch (arguments_.Put(symbol, function_, "", out_)) {
    case CallReader::Step::kPending:
      pending_ += symbol.text();
      return;
    case CallReader::Step::kSettled:
      pending_.clear();
      at_ = At::kAfterCall;
      return;
    case CallReader::Step::kLeft:
    case CallReader::Step::kBroken:
      out_.Withdraw();
      GiveUp();
      Put(symbol);
      return;
  }
}

// What is pending is text, and so is what follows.
void HarmonyAnswer::GiveUp() {
  const std::string text = std::exchange(pending_, {});
  BeginText(At::kText);
  piece_.text += text;
}

void HarmonyAnswer::Finish() {
  if (at_ != At::kHeader && at_ != At::kCall) return;
  out_.Withdraw();
  if (!pending_.empty()) GiveUp();
}

AnswerPiece HarmonyAnswer::Take() {
  AnswerPiece piece = std::exchange(piece_, {});
  piece.tool_calls = out_.Take();
  return piece;
}

}  // namespace modeld
