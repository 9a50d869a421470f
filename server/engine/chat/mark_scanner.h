// Finds the marks of a model's answers, such as "<tool_call>", in text that comes in pieces.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace modeld {

// A byte of text, or a mark as a whole.
struct Symbol {
  char byte = 0;          // without a mark
  std::string_view mark;  // its spelling; empty for a byte
  bool is_token = false;  // the mark came as a special token, not spelled out in text

  bool is_byte() const { return mark.empty(); }
  bool is_space() const {
    return mark.empty() && (byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t');
  }
  std::string_view text() const { return is_byte() ? std::string_view(&byte, 1) : mark; }
};

// A mark that is a special token of the vocabulary counts only as that token, so that text cannot
// pretend to be one; other marks are found in text.
struct Mark {
  std::string spelling;
  bool is_special_token = false;
};

// How a special token that is marks[index] stands in a text beside the bytes of UTF-8: by a pair of
// bytes that no UTF-8 has. At most 64 marks.
std::string MarkTokenText(size_t index);

// Holds back what may be the beginning of a mark. No mark is the beginning of another. The symbols
// do not depend on how the text is cut. One thread at a time.
class MarkScanner {
 public:
  using OnSymbol = std::function<void(const Symbol&)>;

  // `marks` outlives the scanner and the symbols.
  explicit MarkScanner(const std::vector<Mark>& marks);

  // UTF-8 with MarkTokenText() in it.
  void Put(std::string_view text, const OnSymbol& on_symbol);
  // What was held back, as bytes.
  void Finish(const OnSymbol& on_symbol);

 private:
  void PutByte(char c, const OnSymbol& on_symbol);

  const std::vector<Mark>& marks_;
  std::string first_bytes_;  // of the marks that are found in text
  std::string held_;         // a proper beginning of a mark
  bool after_token_byte_ = false;
};

}  // namespace modeld
