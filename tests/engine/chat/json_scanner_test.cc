#include "server/engine/chat/json_scanner.h"

#include <gtest/gtest.h>

#include <string>

#include "nlohmann/json.hpp"

namespace modeld {
namespace {

TEST(JsonScannerTest, AcceptsWhatIsJson) {
  for (const char* json :
       {"{}", "[]", " {\"a\": [1, -2.5e+3, 0, \"\\u00e9\\n\", true, false, null, {}]} ", "\"x\"",
        "0", "-0.1", "10E2", "\"\\ud83d\\ude42\"", "[[[]]]", "  null  "}) {
    EXPECT_TRUE(IsJson(json)) << json;
    EXPECT_TRUE(nlohmann::json::accept(json)) << json;
  }
}

TEST(JsonScannerTest, RefusesWhatIsNone) {
  for (const char* json :
       {"",      " ",      "{",       "[1,]",        "{\"a\":1,}",  "{a: 1}",      "{\"a\" 1}",
        "01",    "1.",     ".5",      "+1",          "1e",          "tr",          "null0",
        "\"a",   "\"\n\"", "\"\\x\"", "\"\\u12g4\"", "\"\\ud83d\"", "\"\\ude42\"", "\"\\ud83d\\n\"",
        "[1 2]", "{}}",    "{]",      "[}",          "1 2",         "'a'",         "{\"a\":}",
        "[,]",   "//",     "-"}) {
    EXPECT_FALSE(IsJson(json)) << json;
    EXPECT_FALSE(nlohmann::json::accept(json)) << json;
  }
}

TEST(JsonScannerTest, SaysWithWhichByteAValueEnds) {
  JsonScanner object;
  for (const char c : std::string(" {\"a\":{}")) EXPECT_EQ(object.Put(c), JsonScanner::Step::kMore);
  EXPECT_EQ(object.Put('}'), JsonScanner::Step::kDone);

  JsonScanner number;
  EXPECT_EQ(number.Put('1'), JsonScanner::Step::kMore);
  EXPECT_TRUE(number.complete());
  EXPECT_EQ(number.Put('}'), JsonScanner::Step::kEnded);
}

TEST(JsonScannerTest, NestsAsDeepAsArgumentsMay) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_TRUE(IsJson(nested(JsonScanner::kDepthMax)));
  EXPECT_FALSE(IsJson(nested(JsonScanner::kDepthMax + 1)));
}

TEST(JsonScannerTest, QuotedTextIsThatTextAgain) {
  std::string text = "\"\\/\u00e9 \U0001F642";
  for (char c = 1; c < 0x20; ++c) text += c;

  EXPECT_EQ(nlohmann::json::parse(JsonQuote(text)).get<std::string>(), text);
}

}  // namespace
}  // namespace modeld
