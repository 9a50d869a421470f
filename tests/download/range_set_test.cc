#include "server/download/range_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace modeld {
namespace {

using testing::ElementsAre;

TEST(RangeSetTest, RangesThatTouchOrOverlapBecomeOne) {
  RangeSet set;
  set.Add({10, 20});
  set.Add({30, 40});
  set.Add({20, 25});
  EXPECT_THAT(set.ranges(), ElementsAre(ByteRange{10, 25}, ByteRange{30, 40}));

  set.Add({24, 31});

  EXPECT_THAT(set.ranges(), ElementsAre(ByteRange{10, 40}));
  EXPECT_EQ(set.bytes(), 30);
}

TEST(RangeSetTest, SaysWhatIsMissingAndHowFarARunGoes) {
  RangeSet set({{0, 10}, {20, 30}});

  EXPECT_THAT(set.Missing({0, 40}), ElementsAre(ByteRange{10, 20}, ByteRange{30, 40}));
  EXPECT_THAT(set.Missing({5, 9}), ElementsAre());
  EXPECT_THAT(set.Missing({12, 15}), ElementsAre(ByteRange{12, 15}));
  EXPECT_EQ(set.NextIn({5, 9}), 5);
  EXPECT_EQ(set.NextIn({10, 25}), 20);
  EXPECT_EQ(set.NextIn({10, 15}), 15);
  EXPECT_EQ(set.NextIn({30, 40}), 40);
  EXPECT_EQ(set.RunEnd(0), 10);
  EXPECT_EQ(set.RunEnd(10), 10);
  EXPECT_EQ(set.RunEnd(25), 30);
}

// Against a string of bits.
TEST(RangeSetTest, AgreesWithAListOfBytes) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int64_t> at(0, 60);
  RangeSet set;
  std::string bits(64, '0');
  for (int step = 0; step < 2000; ++step) {
    const int64_t a = at(random);
    const ByteRange range{a, a + at(random) % 4};
    const bool add = random() % 2 == 0;
    add ? set.Add(range) : set.Remove(range);
    for (int64_t i = range.begin; i < range.end; ++i) bits[static_cast<size_t>(i)] = "01"[add];

    std::string shown(64, '0');
    int64_t last = -1;
    for (const ByteRange& have : set.ranges()) {
      ASSERT_GT(have.begin, last);  // sorted, and a gap between them
      ASSERT_LT(have.begin, have.end);
      last = have.end;
      for (int64_t i = have.begin; i < have.end; ++i) shown[static_cast<size_t>(i)] = '1';
    }
    ASSERT_EQ(shown, bits) << "step " << step;
  }
}

}  // namespace
}  // namespace modeld
