#include "server/control/page_token.h"

#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

TEST(PageTokenTest, ATokenGivesItsCursorBackToItsQuery) {
  const std::string token = MakePageToken("models state=ready", "llama");

  const auto cursor = ReadPageToken("models state=ready", token);

  ASSERT_THAT(cursor, IsOk());
  EXPECT_EQ(*cursor, "llama");
}

TEST(PageTokenTest, AnEmptyTokenIsTheFirstPage) {
  const auto cursor = ReadPageToken("models", "");

  ASSERT_THAT(cursor, IsOk());
  EXPECT_EQ(*cursor, "");
}

TEST(PageTokenTest, ATokenOfAnotherQueryIsRefused) {
  const std::string token = MakePageToken("models state=ready", "llama");

  EXPECT_THAT(ReadPageToken("models state=failed", token), NamesField("page_token"));
}

TEST(PageTokenTest, GarbageAndTruncatedTokensAreRefused) {
  const std::string token = MakePageToken("models", "llama");

  for (const std::string& bad :
       {std::string("x"), std::string("!!!"), std::string(10'000, 'A'), token + "A",
        token.substr(0, token.size() - 4), token.substr(4), std::string("\0\xff", 2)}) {
    EXPECT_THAT(ReadPageToken("models", bad), NamesField("page_token")) << bad;
  }
}

TEST(PageTokenTest, PageSizesAreBounded) {
  EXPECT_EQ(EffectivePageSize(0).value_or(-1), 50);
  EXPECT_EQ(EffectivePageSize(7).value_or(-1), 7);
  EXPECT_EQ(EffectivePageSize(5'000).value_or(-1), 1'000);
  EXPECT_THAT(EffectivePageSize(-1), NamesField("page_size"));
}

}  // namespace
}  // namespace modeld
