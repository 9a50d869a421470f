#include "server/engine/chat/json_scanner.h"

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace modeld {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

JsonScanner::Step JsonScanner::Put(char c) {
  switch (inside_) {
    case Inside::kString:
      return PutString(c);
    case Inside::kWord:
      return PutWord(c);
    case Inside::kNumber:
      if (PutNumber(c)) return Step::kMore;
      if (!NumberMayEnd()) return Step::kBroken;
      if (EndValue() == Step::kDone) return Step::kEnded;
      return PutStructure(c);
    case Inside::kNothing:
      return PutStructure(c);
  }
  return Step::kBroken;
}

JsonScanner::Step JsonScanner::PutStructure(char c) {
  if (IsSpace(c)) return Step::kMore;
  switch (expects_) {
    case Expects::kValueOrEnd:
      if (c == ']') return Close('[');
      return BeginValue(c);
    case Expects::kValue:
      return BeginValue(c);
    case Expects::kKeyOrEnd:
    case Expects::kKey:
      if (c == '}' && expects_ == Expects::kKeyOrEnd) return Close('{');
      if (c != '"') return Step::kBroken;
      inside_ = Inside::kString;
      in_key_ = true;
      return Step::kMore;
    case Expects::kColon:
      if (c != ':') return Step::kBroken;
      expects_ = Expects::kValue;
      return Step::kMore;
    case Expects::kCommaOrEnd:
      if (c == '}') return Close('{');
      if (c == ']') return Close('[');
      if (c != ',') return Step::kBroken;
      expects_ = stack_.back() == '{' ? Expects::kKey : Expects::kValue;
      return Step::kMore;
  }
  return Step::kBroken;
}

JsonScanner::Step JsonScanner::BeginValue(char c) {
  if (c == '{' || c == '[') {
    if (stack_.size() == kDepthMax) return Step::kBroken;
    stack_ += c;
    expects_ = c == '{' ? Expects::kKeyOrEnd : Expects::kValueOrEnd;
    return Step::kMore;
  }
  if (c == '"') {
    inside_ = Inside::kString;
    in_key_ = false;
    return Step::kMore;
  }
  if (c == '-' || IsDigit(c)) {
    inside_ = Inside::kNumber;
    number_ = c == '-' ? Number::kMinus : (c == '0' ? Number::kZero : Number::kDigits);
    return Step::kMore;
  }
  for (const std::string_view word : {"true", "false", "null"}) {
    if (word.front() != c) continue;
    inside_ = Inside::kWord;
    word_rest_ = word.substr(1);
    return Step::kMore;
  }
  return Step::kBroken;
}

JsonScanner::Step JsonScanner::Close(char open) {
  if (stack_.empty() || stack_.back() != open) return Step::kBroken;
  stack_.pop_back();
  return EndValue();
}

JsonScanner::Step JsonScanner::EndValue() {
  inside_ = Inside::kNothing;
  expects_ = Expects::kCommaOrEnd;
  complete_ = stack_.empty();
  return complete_ ? Step::kDone : Step::kMore;
}

JsonScanner::Step JsonScanner::PutString(char c) {
  if (!escape_.empty()) return PutEscape(c) ? Step::kMore : Step::kBroken;
  if (needs_low_surrogate_ && c != '\\') return Step::kBroken;
  if (c == '\\') {
    escape_ = c;
    return Step::kMore;
  }
  if (static_cast<unsigned char>(c) < 0x20) return Step::kBroken;
  if (c != '"') return Step::kMore;
  inside_ = Inside::kNothing;
  if (!in_key_) return EndValue();
  expects_ = Expects::kColon;
  return Step::kMore;
}

// False when the escape is none.
bool JsonScanner::PutEscape(char c) {
  escape_ += c;
  if (escape_.size() == 2 && c != 'u') {
    escape_.clear();
    return !needs_low_surrogate_ && std::string_view("\"\\/bfnrt").find(c) != std::string::npos;
  }
  if (escape_.size() > 2 && !absl::ascii_isxdigit(static_cast<unsigned char>(c))) return false;
  if (escape_.size() < 6) return true;
  int unit = 0;
  if (!absl::SimpleHexAtoi(escape_.substr(2), &unit)) return false;
  escape_.clear();
  const bool is_low = unit >= 0xDC00 && unit <= 0xDFFF;
  if (is_low != needs_low_surrogate_) return false;
  needs_low_surrogate_ = unit >= 0xD800 && unit <= 0xDBFF;
  return true;
}

// False when `c` is no part of the number.
bool JsonScanner::PutNumber(char c) {
  const auto go = [this](Number next) {
    number_ = next;
    return true;
  };
  const bool e = c == 'e' || c == 'E';
  switch (number_) {
    case Number::kMinus:
      return IsDigit(c) && go(c == '0' ? Number::kZero : Number::kDigits);
    case Number::kZero:
      return (c == '.' && go(Number::kPoint)) || (e && go(Number::kExponent));
    case Number::kDigits:
      return IsDigit(c) || (c == '.' && go(Number::kPoint)) || (e && go(Number::kExponent));
    case Number::kPoint:
      return IsDigit(c) && go(Number::kFraction);
    case Number::kFraction:
      return IsDigit(c) || (e && go(Number::kExponent));
    case Number::kExponent:
      return ((c == '+' || c == '-') && go(Number::kSign)) || (IsDigit(c) && go(Number::kPower));
    case Number::kSign:
      return IsDigit(c) && go(Number::kPower);
    case Number::kPower:
      return IsDigit(c);
  }
  return false;
}

bool JsonScanner::NumberMayEnd() const {
  return inside_ == Inside::kNumber && (number_ == Number::kZero || number_ == Number::kDigits ||
                                        number_ == Number::kFraction || number_ == Number::kPower);
}

JsonScanner::Step JsonScanner::PutWord(char c) {
  if (word_rest_.front() != c) return Step::kBroken;
  word_rest_.remove_prefix(1);
  return word_rest_.empty() ? EndValue() : Step::kMore;
}

bool IsJson(std::string_view text) {
  JsonScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    switch (scanner.Put(text[i])) {
      case JsonScanner::Step::kMore:
        break;
      case JsonScanner::Step::kDone:
        return text.find_first_not_of(" \n\r\t", i + 1) == std::string_view::npos;
      case JsonScanner::Step::kEnded:
        return text.find_first_not_of(" \n\r\t", i) == std::string_view::npos;
      case JsonScanner::Step::kBroken:
        return false;
    }
  }
  return scanner.complete();
}

void AppendJsonEscaped(char c, std::string& out) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      break;
  }
  if (static_cast<unsigned char>(c) < 0x20) {
    out += absl::StrFormat("\\u%04x", static_cast<int>(c));
  } else {
    out += c;
  }
}

std::string JsonQuote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) AppendJsonEscaped(c, out);
  return out + '"';
}

}  // namespace modeld
