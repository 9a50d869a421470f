#include "server/engine/chat/json_call.h"

#include <utility>

#include "nlohmann/json.hpp"

namespace modeld {
namespace {

// The text of a JSON string; empty when it is not UTF-8.
std::string Unquote(const std::string& json) {
  const nlohmann::json value = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  return value.is_string() ? value.get<std::string>() : "";
}

bool IsObject(std::string_view json) {
  const size_t begin = json.find_first_not_of(" \n\r\t");
  return begin != std::string_view::npos && json[begin] == '{' && IsJson(json);
}

// Calls `put` with each byte of the symbol; a mark is text only where a string is open, and only
// when it is no token. `put` answers whether it took the byte and goes on.
template <typename Put>
bool PutMark(const Symbol& symbol, const JsonScanner& scanner, Put put) {
  if (symbol.is_token || !scanner.in_string()) return false;
  for (const char c : symbol.mark) {
    if (!put(c)) return false;
  }
  return true;
}

}  // namespace

JsonCall::Step JsonCall::Put(const Symbol& symbol, CallOutput& out) {
  if (symbol.is_byte()) return PutByte(symbol.byte, out);
  if (at_ != At::kKey && at_ != At::kValue) return Step::kBroken;
  const bool taken =
      PutMark(symbol, scanner_, [&](char c) { return PutByte(c, out) == Step::kMore; });
  return taken ? Step::kMore : Step::kBroken;
}

JsonCall::Step JsonCall::PutByte(char c, CallOutput& out) {
  if (at_ != At::kKey && at_ != At::kValue) {
    const Symbol symbol{.byte = c};
    return symbol.is_space() ? Step::kMore : PutStructure(c, out);
  }
  return PutValue(c, out);
}

JsonCall::Step JsonCall::PutStructure(char c, CallOutput& out) {
  switch (at_) {
    case At::kStart:
      if (c != '{') return Step::kBroken;
      at_ = At::kKeyOrEnd;
      return Step::kMore;
    case At::kKeyOrEnd:
      if (c != '"') return Step::kBroken;  // a call without a name is none
      at_ = At::kKey;
      scanner_ = {};
      raw_.clear();
      return PutValue(c, out);
    case At::kColon:
      if (c != ':') return Step::kBroken;
      at_ = At::kValue;
      return BeginValue() ? Step::kMore : Step::kBroken;
    case At::kCommaOrEnd:
      if (c == '}') return EndCall(out);
      if (c != ',') return Step::kBroken;
      at_ = At::kKeyOrEnd;
      return Step::kMore;
    case At::kKey:
    case At::kValue:
      break;
  }
  return Step::kBroken;
}

// False for what is there a second time.
bool JsonCall::BeginValue() {
  scanner_ = {};
  raw_.clear();
  if (IsArguments()) return !std::exchange(has_arguments_, true);
  return key_ != "name" || name_.empty();
}

JsonCall::Step JsonCall::PutValue(char c, CallOutput& out) {
  const JsonScanner::Step step = scanner_.Put(c);
  if (step == JsonScanner::Step::kBroken) return Step::kBroken;
  if (step != JsonScanner::Step::kEnded) {
    if (raw_.empty() && Symbol{.byte = c}.is_space()) return Step::kMore;
    raw_ += c;
    if (at_ == At::kValue && IsArguments() && raw_.front() == '{') {
      held_arguments_ += c;
      if (begun_) GiveArguments(out);
      if (raw_.size() == 1 && !begun_ && !name_.empty()) {
        if (!out.Begin(name_, id_)) return Step::kBroken;
        begun_ = true;
        GiveArguments(out);
      }
    }
    if (step == JsonScanner::Step::kMore) return Step::kMore;
  }
  if (at_ == At::kKey) {
    key_ = Unquote(raw_);
    at_ = At::kColon;
    return Step::kMore;
  }
  at_ = At::kCommaOrEnd;
  if (!EndValue(out)) return Step::kBroken;
  return step == JsonScanner::Step::kEnded ? PutByte(c, out) : Step::kMore;
}

// False when the value is not of the kind that its key has.
bool JsonCall::EndValue(CallOutput& out) {
  if (key_ == "name") {
    if (raw_.front() != '"') return false;
    name_ = Unquote(raw_);
    return out.tools().Has(name_);
  }
  if ((key_ == "id" || key_ == "tool_call_id") && raw_.front() == '"') id_ = Unquote(raw_);
  if (!IsArguments() || raw_.front() == '{') return true;
  held_arguments_ = raw_ == "null" ? "{}" : Unquote(raw_);
  return IsObject(held_arguments_);
}

void JsonCall::GiveArguments(CallOutput& out) {
  out.Arguments(held_arguments_);
  held_arguments_.clear();
}

JsonCall::Step JsonCall::EndCall(CallOutput& out) {
  if (!has_arguments_) {
    if (arguments_ == Arguments::kRequired) return Step::kBroken;
    held_arguments_ = "{}";
  }
  if (!begun_ && !out.Begin(name_, id_)) return Step::kBroken;
  GiveArguments(out);
  out.End();
  return Step::kDone;
}

JsonCalls::Step JsonCalls::Put(const Symbol& symbol, CallOutput& out) {
  if (at_ == At::kStart && !is_list_ && symbol.is_byte() && symbol.byte == '[') {
    is_list_ = true;
    return Step::kMore;
  }
  if (at_ == At::kCommaOrEnd) {
    if (symbol.is_space()) return Step::kMore;
    if (symbol.is_byte() && symbol.byte == ']') return Step::kDone;
    if (!symbol.is_byte() || symbol.byte != ',') return Step::kBroken;
    at_ = At::kCall;
    call_ = JsonCall(arguments_);
    return Step::kMore;
  }
  if (!symbol.is_space()) at_ = At::kCall;
  switch (call_.Put(symbol, out)) {
    case JsonCall::Step::kMore:
      return Step::kMore;
    case JsonCall::Step::kDone:
      at_ = At::kCommaOrEnd;
      return Step::kCallDone;
    case JsonCall::Step::kBroken:
      break;
  }
  return Step::kBroken;
}

CallReader::Step JsonArguments::Put(const Symbol& symbol, std::string_view name,
                                    std::string_view id, CallOutput& out) {
  if (!begun_) {
    if (symbol.is_space()) return CallReader::Step::kPending;
    if (!symbol.is_byte() || symbol.byte != '{' || !out.Begin(name, id))
      return CallReader::Step::kBroken;
    begun_ = true;
  }
  JsonScanner::Step step = JsonScanner::Step::kMore;
  if (symbol.is_byte()) {
    step = scanner_.Put(symbol.byte);
  } else if (!PutMark(symbol, scanner_,
                      [&](char c) { return scanner_.Put(c) == JsonScanner::Step::kMore; })) {
    step = JsonScanner::Step::kBroken;
  }
  if (step != JsonScanner::Step::kMore && step != JsonScanner::Step::kDone)
    return CallReader::Step::kBroken;
  out.Arguments(symbol.text());
  if (step == JsonScanner::Step::kMore) return CallReader::Step::kPending;
  out.End();
  return CallReader::Step::kSettled;
}

}  // namespace modeld
