#include "server/engine/chat/parameter_text.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "server/engine/chat/json_scanner.h"

namespace modeld {
namespace {

std::string_view Strip(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \n\r\t");
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(" \n\r\t") - begin + 1);
}

// Whether JSON text is of a kind that `types` allows.
bool Allows(const ParameterTypes& types, std::string_view json) {
  switch (json.front()) {
    case '{':
      return types.object;
    case '[':
      return types.array;
    case '"':
      return types.string;
    case 't':
    case 'f':
      return types.boolean;
    case 'n':
      return types.null;
    default:
      return types.number || (types.integer && json.find_first_of(".eE") == std::string_view::npos);
  }
}

}  // namespace

ParameterText::ParameterText(const ParameterTypes& types, bool trims_line_feeds)
    : types_(types), trims_line_feeds_(trims_line_feeds) {}

std::string ParameterText::Put(char c) {
  std::string out;
  if (types_.is_text_only() && std::exchange(at_start_, false)) {
    out = "\"";
    if (c == '\n' && trims_line_feeds_) return out;
  }
  if (!types_.is_text_only()) {
    held_ += c;
    return out;
  }
  if (std::exchange(line_feed_held_, c == '\n' && trims_line_feeds_)) AppendJsonEscaped('\n', out);
  if (!line_feed_held_) AppendJsonEscaped(c, out);
  return out;
}

std::string ParameterText::End() {
  if (types_.is_text_only()) return at_start_ ? "\"\"" : "\"";
  std::string_view text = held_;
  if (trims_line_feeds_ && text.starts_with('\n')) text.remove_prefix(1);
  if (trims_line_feeds_ && text.ends_with('\n')) text.remove_suffix(1);
  return JsonOfText(text, types_);
}

std::string JsonOfText(std::string_view text, const ParameterTypes& types) {
  const std::string_view stripped = Strip(text);
  // Templates print Python's values with str() where they do not use tojson.
  const std::string lower = absl::AsciiStrToLower(std::string(stripped.substr(0, 5)));
  if (stripped.size() <= 5) {
    if (types.boolean && (lower == "true" || lower == "false")) return lower;
    if (types.null && (lower == "null" || lower == "none")) return "null";
  }
  const bool other_than_text = !stripped.empty() && stripped.front() != '"';
  if (other_than_text && IsJson(stripped) && Allows(types, stripped)) return std::string(stripped);
  return JsonQuote(text);
}

}  // namespace modeld
