#include "client/rate.h"

#include <gtest/gtest.h>

namespace modeld {
namespace {

TEST(ParseRateTest, UnitsArePowersOfThousandOrWithAnIOf1024) {
  EXPECT_EQ(ParseRate("50MB/s"), 50'000'000);
  EXPECT_EQ(ParseRate("1.5 GiB"), 1'610'612'736);
  EXPECT_EQ(ParseRate("800k"), 800'000);
  EXPECT_EQ(ParseRate("12"), 12);
  EXPECT_EQ(ParseRate("12b/s"), 12);
}

TEST(ParseRateTest, NoLimitIsZeroOrNone) {
  EXPECT_EQ(ParseRate("0"), 0);
  EXPECT_EQ(ParseRate("none"), 0);
}

TEST(ParseRateTest, OtherTextIsNoRate) {
  for (const char* text : {"", "fast", "-1", "5 parsecs", "1e9", "MB", "1.2.3", "kk1", "9e99"}) {
    EXPECT_FALSE(ParseRate(text).has_value()) << text;
  }
  EXPECT_FALSE(ParseRate("99999999999TB").has_value());
}

}  // namespace
}  // namespace modeld
