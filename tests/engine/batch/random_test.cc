#include "server/engine/batch/random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace modeld {
namespace {

using ::testing::ElementsAre;

// The known answers that come with its authors' Random123.
TEST(RandomTest, PhiloxGivesTheKnownAnswers) {
  constexpr uint32_t kOnes = 0xffffffff;

  EXPECT_THAT(Philox({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(RandomTest, EachOfSeedChoiceAndPositionMatters) {
  const double unit = UnitsAt(1, 0, 0).first;

  EXPECT_NE(UnitsAt(2, 0, 0).first, unit);
  EXPECT_NE(UnitsAt(uint64_t{1} << 32 | 1, 0, 0).first, unit);
  EXPECT_NE(UnitsAt(1, 1, 0).first, unit);
  EXPECT_NE(UnitsAt(1, 0, 1).first, unit);
  EXPECT_NE(UnitsAt(1, 0, uint64_t{1} << 32).first, unit);
  EXPECT_NE(UnitsAt(1, 0, 0).second, unit);
}

}  // namespace
}  // namespace modeld
