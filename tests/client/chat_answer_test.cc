#include "client/chat_answer.h"

#include <gtest/gtest.h>

#include <string>

#include "google/protobuf/text_format.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

v1::GenerateResponse Piece(const std::string& text) {
  v1::GenerateResponse piece;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &piece)) << text;
  return piece;
}

TEST(ChatAnswerTest, ReasoningIsDimmedOnATerminalAndLeftOutOfAPipe) {
  for (const bool terminal : {true, false}) {
    ChatAnswer answer(terminal ? ChatAnswer::Reasoning::kDimmed : ChatAnswer::Reasoning::kHidden);

    std::string shown = answer.Add(Piece("reasoning_text: 'a'"));
    shown += answer.Add(Piece("reasoning_text: 'b' text: 'c'"));
    shown += answer.Add(Piece("text: 'd'"));
    shown += answer.End();

    EXPECT_EQ(shown, terminal ? "\x1b[2mab\x1b[0m\n\ncd\n" : "cd\n");
    EXPECT_EQ(answer.message().content(), "cd");
    EXPECT_EQ(answer.message().reasoning_content(), "ab");
    EXPECT_EQ(answer.message().role(), "assistant");
  }
}

TEST(ChatAnswerTest, CallsAreToldWholeAndKeptButForWithdrawnOnes) {
  ChatAnswer answer(ChatAnswer::Reasoning::kHidden);

  std::string shown = answer.Add(Piece(R"(text: "Look:" tool_calls { id: "i" name: "f" })"));
  shown += answer.Add(Piece(R"(tool_calls { arguments_json: "{\"a\":" })"));
  shown += answer.Add(Piece(R"(tool_calls { arguments_json: " 1}" }
                               tool_calls { index: 1 id: "j" name: "g" arguments_json: "{" })"));
  shown += answer.Add(Piece("tool_calls { index: 1 withdrawn: true } text: ' g{'"));
  shown += answer.End();

  EXPECT_EQ(shown, "Look: g{\ncall f {\"a\": 1}\n");
  ASSERT_EQ(answer.message().tool_calls_size(), 1);
  EXPECT_EQ(answer.message().tool_calls(0).id(), "i");
  EXPECT_EQ(answer.message().tool_calls(0).arguments_json(), "{\"a\": 1}");
}

TEST(ParseToolsTest, TakesWhatOpenAiTakesAndKeepsTheOrderOfKeys) {
  const std::string function =
      R"({"name": "f", "description": "d", "parameters": {"z": 1, "a": [2]}})";
  for (const std::string& json : {"[{\"type\": \"function\", \"function\": " + function + "}]",
                                  "[" + function + "]", function}) {
    const auto tools = ParseTools(json);
    ASSERT_THAT(tools, IsOk()) << json;
    ASSERT_EQ(tools->size(), 1U);
    EXPECT_EQ(tools->at(0).name(), "f");
    EXPECT_EQ(tools->at(0).description(), "d");
    EXPECT_EQ(tools->at(0).parameters_json(), R"({"z":1,"a":[2]})");
  }
}

TEST(ParseToolsTest, RefusesWhatIsNoTool) {
  for (const char* json : {"", "[", "[1]", "{}", "[{\"function\": 1}]", "{\"name\": 1}"}) {
    EXPECT_THAT(ParseTools(json), StatusIs(absl::StatusCode::kInvalidArgument)) << json;
  }
}

}  // namespace
}  // namespace modeld
