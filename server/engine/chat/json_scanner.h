// Follows one JSON value byte by byte.
#pragma once

#include <string>
#include <string_view>

namespace modeld {

// Says of each byte whether the value goes on, ends with it, or is none. Strict JSON: no comments,
// no control bytes in strings, paired surrogates, at most kDepthMax levels. Leading white space is
// part of the value. One thread at a time.
class JsonScanner {
 public:
  static constexpr size_t kDepthMax = 100;  // what a message's arguments may have

  enum class Step {
    kMore,    // taken
    kDone,    // taken, and the value is complete
    kEnded,   // not taken: the value, a number, was complete before it
    kBroken,  // not taken: no JSON
  };

  // Not to be called again after kDone, kEnded or kBroken.
  Step Put(char c);

  // Whether the value is complete when nothing follows.
  bool complete() const { return complete_ || (stack_.empty() && NumberMayEnd()); }
  // Whether the next byte is inside a string, not in the middle of an escape.
  bool in_string() const { return inside_ == Inside::kString && escape_.empty(); }

 private:
  enum class Inside { kNothing, kString, kNumber, kWord };
  enum class Expects { kValue, kValueOrEnd, kKeyOrEnd, kKey, kColon, kCommaOrEnd };
  enum class Number { kMinus, kZero, kDigits, kPoint, kFraction, kExponent, kSign, kPower };

  Step PutStructure(char c);
  Step BeginValue(char c);
  Step PutString(char c);
  bool PutEscape(char c);
  bool PutNumber(char c);
  bool NumberMayEnd() const;
  Step PutWord(char c);
  Step EndValue();
  Step Close(char open);

  Inside inside_ = Inside::kNothing;
  Expects expects_ = Expects::kValue;
  Number number_ = Number::kMinus;
  std::string stack_;  // '{' or '[' for each level
  bool in_key_ = false;
  bool complete_ = false;
  std::string escape_;  // begun escape, from its backslash
  bool needs_low_surrogate_ = false;
  std::string_view word_rest_;
};

// Whether all of `text` is one JSON value, white space around it allowed.
bool IsJson(std::string_view text);

// A JSON string with its quotes.
std::string JsonQuote(std::string_view text);
// Appends `c` as it stands in a JSON string.
void AppendJsonEscaped(char c, std::string& out);

}  // namespace modeld
