// Every style reads what its templates write, however it is cut, and loses nothing of what it
// cannot read.
#include <gtest/gtest.h>

#include <string>

#include "tests/engine/chat/transcripts.h"

namespace modeld {
namespace {

class CallStylesTest : public ::testing::TestWithParam<StyleUnderTest> {};

void ExpectMeaning(const Events& events, const Meaning& meaning) {
  EXPECT_EQ(events.reasoning, meaning.reasoning);
  EXPECT_EQ(events.text, meaning.text);
  ASSERT_EQ(events.calls.size(), meaning.calls.size());
  EXPECT_EQ(events.complete_calls, static_cast<int>(meaning.calls.size()));
  for (size_t i = 0; i < events.calls.size(); ++i) {
    EXPECT_EQ(events.calls[i].name, meaning.calls[i].name);
    EXPECT_EQ(events.calls[i].arguments, PythonJson(meaning.calls[i].arguments));
    EXPECT_EQ(events.calls[i].index, static_cast<int>(i));
    EXPECT_FALSE(events.calls[i].id.empty());
    EXPECT_FALSE(events.calls[i].withdrawn);
  }
}

TEST_P(CallStylesTest, TranscriptsMeanWhatWasWritten) {
  const std::vector<Transcript> transcripts = TranscriptsOf(GetParam());
  ASSERT_GE(transcripts.size(), 30U);
  for (const Marks marks : {Marks::kText, Marks::kTokens}) {
    const AnswerFormat format = FormatOf(GetParam(), marks);
    for (const Transcript& transcript : transcripts) {
      SCOPED_TRACE(transcript.written);
      ExpectMeaning(Parse(format, {Encoded(transcript.written, format)}), transcript.meaning);
    }
  }
}

TEST_P(CallStylesTest, TwoPiecesMeanTheSameAsOneWhereverTheyAreCut) {
  for (const Marks marks : {Marks::kText, Marks::kTokens}) {
    const AnswerFormat format = FormatOf(GetParam(), marks);
    for (const Transcript& transcript : TranscriptsOf(GetParam())) {
      const std::string whole = Encoded(transcript.written, format);
      const Events expected = Parse(format, {whole});
      for (size_t cut = 1; cut < whole.size(); ++cut) {
        ASSERT_EQ(Parse(format, {whole.substr(0, cut), whole.substr(cut)}), expected)
            << transcript.written << " cut at " << cut;
      }
    }
  }
}

TEST_P(CallStylesTest, BytesOneByOneMeanTheSameAsTheWhole) {
  const AnswerFormat format = FormatOf(GetParam(), Marks::kText);
  for (const Transcript& transcript : TranscriptsOf(GetParam())) {
    std::vector<std::string> bytes;
    for (const char c : transcript.written) bytes.emplace_back(1, c);
    EXPECT_EQ(Parse(format, bytes), Parse(format, {transcript.written})) << transcript.written;
  }
}

// Arguments come while they are written, not when the call ends.
TEST_P(CallStylesTest, ArgumentsAreStreamed) {
  const AnswerFormat format = FormatOf(GetParam(), Marks::kText);
  const std::string value(200, 'x');
  const std::string written =
      GetParam().write({"", "", {{"write_file", {{"path", "p"}, {"text", value}}}}});
  AnswerParser parser(format, TestTools(), {});

  const AnswerPiece piece = parser.Put(written.substr(0, written.find(value) + 150));

  ASSERT_EQ(piece.tool_calls.size(), 1U);
  EXPECT_NE(piece.tool_calls[0].arguments.find(std::string(140, 'x')), std::string::npos);
  EXPECT_EQ(parser.complete_calls(), 0);
}

// An answer that is cut off inside its only call.
TEST_P(CallStylesTest, ACallThatIsCutOffComesBackAsText) {
  const AnswerFormat format = FormatOf(GetParam(), Marks::kText);
  const std::string written =
      GetParam().write({"", "", {{"write_file", {{"path", "a\"b"}, {"text", "c\nd"}}}}});
  int cut_off = 0;
  for (size_t length = 0; length < written.size(); ++length) {
    const std::string head = written.substr(0, length);
    const Events events = Parse(format, {head});
    if (events.complete_calls == 1) continue;  // only what closes it is missing
    ++cut_off;
    ASSERT_EQ(events.text, head);
    for (const ToolCallPiece& call : events.calls) EXPECT_TRUE(call.withdrawn) << head;
  }
  EXPECT_GT(cut_off, 30);
}

TEST_P(CallStylesTest, ACallWithAWrongByteIsACallOrText) {
  const std::string written =
      GetParam().write({"", "", {{"search", {{"query", "q"}, {"limit", 7}}}}});
  for (const Marks marks : {Marks::kText, Marks::kTokens}) {
    const AnswerFormat format = FormatOf(GetParam(), marks);
    int text = 0;
    for (size_t at = 0; at < written.size(); ++at) {
      for (const char wrong : {'#', '"', '}', '<', ' ', '\n'}) {
        if (static_cast<unsigned char>(written[at]) >= 0x80) continue;  // the engine writes UTF-8
        std::string broken = written;
        broken[at] = wrong;
        const Events events = Parse(format, {Encoded(broken, format)});
        if (events.complete_calls > 0) {
          EXPECT_TRUE(Json::accept(events.calls[0].arguments)) << broken;
          continue;
        }
        ++text;
        // What still is a message of the format loses its header.
        const size_t body = format.is_harmony() ? broken.find('{') : 0;
        ASSERT_TRUE(body == std::string::npos || events.text.ends_with(broken.substr(body)))
            << events.text;
        ASSERT_TRUE(format.is_harmony() || events.text == broken) << events.text;
      }
    }
    EXPECT_GT(text, 20);
  }
}

TEST_P(CallStylesTest, ACallOfAnUnknownFunctionIsText) {
  const AnswerFormat format = FormatOf(GetParam(), Marks::kText);
  const std::string written = GetParam().write({"", "", {{"get_whether", {{"city", "x"}}}}});

  const Events events = Parse(format, {written});

  EXPECT_EQ(events.text, written);
  EXPECT_TRUE(events.calls.empty());
}

TEST_P(CallStylesTest, ACallAfterABrokenOneIsRead) {
  const AnswerFormat format = FormatOf(GetParam(), Marks::kText);
  const Meaning good = {"", "", {{"get_weather", {{"city", "Paris"}}}}};
  const std::string bad = GetParam().write({"", "", {{"get_whether", {{"city", "Rome"}}}}});
  const std::string between = format.is_harmony() ? "<|call|><|start|>assistant" : "\n";

  const Events events = Parse(format, {bad + between + GetParam().write(good)});

  EXPECT_TRUE(events.text.starts_with(bad.substr(0, bad.find("get_whether")))) << events.text;
  if (!GetParam().has_text_beside_calls) {
    EXPECT_EQ(events.complete_calls, 0);  // the answer as a whole is calls or text
    return;
  }
  ASSERT_EQ(events.complete_calls, 1);
  EXPECT_EQ(events.calls[0].name, "get_weather");
  EXPECT_EQ(events.calls[0].arguments, R"({"city": "Paris"})");
}

std::string NameOf(const ::testing::TestParamInfo<StyleUnderTest>& style) {
  return style.param.name;
}

INSTANTIATE_TEST_SUITE_P(Styles, CallStylesTest, ::testing::ValuesIn(StylesUnderTest()), NameOf);

}  // namespace
}  // namespace modeld
