#include "server/engine/batch/stop_strings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace modeld {
namespace {

using ::testing::Eq;
using ::testing::Optional;

struct Shown {
  std::string text;
  std::optional<std::string> match;
};

Shown PutAll(const std::vector<std::string>& stops, const std::vector<std::string_view>& pieces) {
  StopStrings stop_strings(stops);
  Shown shown;
  for (const std::string_view piece : pieces) shown.text += stop_strings.Put(piece);
  shown.text += stop_strings.Finish();
  shown.match = stop_strings.match();
  return shown;
}

TEST(StopStringsTest, AMatchIsFoundHoweverTheTextIsCut) {
  constexpr std::string_view kText = "one two\n\nUser: three";
  for (size_t a = 0; a <= kText.size(); ++a) {
    for (size_t b = a; b <= kText.size(); ++b) {
      const Shown shown = PutAll({"\n\nUser:", "four"},
                                 {kText.substr(0, a), kText.substr(a, b - a), kText.substr(b)});

      EXPECT_EQ(shown.text, "one two") << a << " " << b;
      EXPECT_THAT(shown.match, Optional(Eq("\n\nUser:"))) << a << " " << b;
    }
  }
}

TEST(StopStringsTest, TheMatchThatEndsFirstWinsHoweverTheTextIsCut) {
  constexpr std::string_view kText = "xabcdx";
  for (size_t cut = 0; cut <= kText.size(); ++cut) {
    const Shown shown = PutAll({"abcd", "bc"}, {kText.substr(0, cut), kText.substr(cut)});

    EXPECT_EQ(shown.text, "xa") << cut;
    EXPECT_THAT(shown.match, Optional(Eq("bc"))) << cut;
  }
}

TEST(StopStringsTest, OfMatchesThatEndTogetherTheLongestWins) {
  const Shown shown = PutAll({"c", "abc", "bc"}, {"xabc"});

  EXPECT_EQ(shown.text, "x");
  EXPECT_THAT(shown.match, Optional(Eq("abc")));
}

TEST(StopStringsTest, TheBeginningOfAStopStringIsHeldBackAndGivenOutWhenItWasNone) {
  StopStrings stop_strings({"STOP"});

  EXPECT_EQ(stop_strings.Put("go ST"), "go ");
  EXPECT_EQ(stop_strings.Put("O"), "");
  EXPECT_EQ(stop_strings.Put("STORE"), "STOSTORE");
}

TEST(StopStringsTest, HeldBackTextComesOutAtTheEnd) {
  StopStrings stop_strings({"STOP"});

  EXPECT_EQ(stop_strings.Put("go STO"), "go ");
  EXPECT_EQ(stop_strings.Finish(), "STO");
  EXPECT_FALSE(stop_strings.match());
}

TEST(StopStringsTest, NothingComesOutAfterAMatch) {
  StopStrings stop_strings({"STOP"});

  EXPECT_EQ(stop_strings.Put("a STOP b"), "a ");
  EXPECT_EQ(stop_strings.Put("more"), "");
  EXPECT_EQ(stop_strings.Finish(), "");
}

TEST(StopStringsTest, CharactersOfManyBytesStayWhole) {
  StopStrings stop_strings({"\u20ac\u20ac"});

  EXPECT_EQ(stop_strings.Put("5\u20ac"), "5");
  EXPECT_EQ(stop_strings.Put("\u00e9"), "\u20ac\u00e9");
  EXPECT_EQ(stop_strings.Put("\u20ac"), "");
  EXPECT_EQ(stop_strings.Put("\u20ac"), "");
  EXPECT_THAT(stop_strings.match(), Optional(Eq("\u20ac\u20ac")));
}

TEST(StopStringsTest, WithoutStopStringsTextGoesStraightThrough) {
  StopStrings stop_strings({});

  EXPECT_EQ(stop_strings.Put("anything"), "anything");
}

}  // namespace
}  // namespace modeld
