// Whatever a model writes, however it comes: no crash, the same pieces for every cut, and no byte
// lost of what is no call.
#include "tests/support/fuzz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/engine/chat/json_scanner.h"
#include "tests/engine/chat/transcripts.h"

namespace modeld {
namespace {

bool HasMarkOf(const AnswerFormat& format, std::string_view text) {
  return std::ranges::any_of(format.marks(), [text](const Mark& mark) {
    return text.find(mark.spelling) != std::string_view::npos;
  });
}

void ExpectNothingLost(const AnswerFormat& format, const std::string& written,
                       const Events& events) {
  for (const ToolCallPiece& call : events.calls) {
    EXPECT_TRUE(call.withdrawn || IsJson(call.arguments)) << written;
  }
  const auto withdrawn = std::ranges::count_if(events.calls, &ToolCallPiece::withdrawn);
  EXPECT_EQ(std::ssize(events.calls) - withdrawn, events.complete_calls) << written;
  if (format.is_harmony() ? !HasMarkOf(format, written)
                          : events.complete_calls == 0 && format.reasoning() == nullptr) {
    EXPECT_EQ(events.text, written);
  }
}

// `pieces` of 1, 2, 3 ... bytes.
std::vector<std::string> Cut(const std::string& text) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < text.size(); begin += pieces.back().size()) {
    pieces.push_back(text.substr(begin, pieces.size() % 7 + 1));
  }
  return pieces;
}

void FuzzStyles(const std::vector<std::string>& names) {
  FuzzCorpus corpus;
  std::vector<AnswerFormat> formats;
  for (const StyleUnderTest& style : StylesUnderTest()) {
    if (std::ranges::find(names, style.name) == names.end()) continue;
    const StyleUnderTest bare = {
        style.name, style.template_source.substr(0, style.template_source.find(" </think>")),
        style.write};
    formats.push_back(FormatOf(style, Marks::kText));
    formats.push_back(FormatOf(bare, Marks::kText));
    formats.push_back(FormatOf(style, Marks::kTokens));
    for (const Transcript& transcript : TranscriptsOf(style)) {
      corpus.inputs.push_back(transcript.written);
    }
    for (const Mark& mark : formats.back().marks()) corpus.pieces.push_back(mark.spelling);
  }
  corpus.pieces.insert(corpus.pieces.end(), {"\"",
                                             "{",
                                             "}",
                                             "[",
                                             "]",
                                             ",",
                                             ":",
                                             "\\",
                                             "\n",
                                             " ",
                                             "now",
                                             "get_weather",
                                             "\"name\": \"now\"",
                                             "\"arguments\": {}",
                                             "<",
                                             ">",
                                             "=",
                                             "```",
                                             "functions.",
                                             "\\ud83d",
                                             "0",
                                             "functions.now:0",
                                             "now{}"});
  ASSERT_EQ(formats.size(), 3 * names.size());
  Fuzz(corpus, [&](std::string written) {
    std::ranges::replace(written, '\xff', '?');  // stands before tokens, and in no text
    for (const AnswerFormat& format : formats) {
      const std::string text = Encoded(written, format);
      const Events whole = Parse(format, {text});
      EXPECT_EQ(Parse(format, Cut(text)), whole) << written;
      ExpectNothingLost(format, written, whole);
    }
    return absl::OkStatus();
  });
}

TEST(AnswerFuzzTest, CallsThatAreJson) { FuzzStyles({"hermes", "llama3", "granite"}); }

TEST(AnswerFuzzTest, CallsBetweenTokens) { FuzzStyles({"mistral_args", "deepseek_r1", "kimi"}); }

TEST(AnswerFuzzTest, ParametersInTags) { FuzzStyles({"qwen3_coder", "deepseek_dsml", "glm"}); }

TEST(AnswerFuzzTest, Harmony) { FuzzStyles({"harmony"}); }

}  // namespace
}  // namespace modeld
