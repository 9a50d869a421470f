#include "server/download/segment.h"

#include <gtest/gtest.h>

#include <limits>

namespace modeld {
namespace {

using std::chrono::seconds;

constexpr int64_t kMiB = 1 << 20;

TEST(SegmentBytesTest, IsAboutASecondOfAConnection) {
  EXPECT_EQ(SegmentBytes(50.0 * kMiB, 4000 * kMiB, 1), 50 * kMiB);
  EXPECT_EQ(SegmentBytes(1000.0 * kMiB, 4000 * kMiB, 1), 256 * kMiB);
  EXPECT_EQ(SegmentBytes(1000, 4000 * kMiB, 1), 4 * kMiB);
  EXPECT_EQ(SegmentBytes(0, 4000 * kMiB, 1), 8 * kMiB);  // not known yet
}

TEST(SegmentBytesTest, GetsSmallerTowardsTheEndSoThatAllEndTogether) {
  EXPECT_EQ(SegmentBytes(100.0 * kMiB, 1280 * kMiB, 16), 10 * kMiB);
  EXPECT_EQ(SegmentBytes(100.0 * kMiB, 40 * kMiB, 16), 4 * kMiB);
}

TEST(SegmentBytesTest, LeavesNoRestThatIsNotWorthARequest) {
  EXPECT_EQ(SegmentBytes(0, 3'000'000, 1), 3'000'000);
  EXPECT_EQ(SegmentBytes(0, 11 * kMiB, 1), 11 * kMiB);
  EXPECT_EQ(SegmentBytes(100.0 * kMiB, 7 * kMiB, 16), 7 * kMiB);
}

TEST(SegmentBytesTest, AnyNumberOfConnectionsIsTaken) {
  EXPECT_EQ(SegmentBytes(0, 64 << 20, std::numeric_limits<int>::max()), 4 << 20);
}

// Asked over and over it takes all of a file and never more.
TEST(SegmentBytesTest, AddsUpToTheFile) {
  for (const int connections : {1, 2, 16}) {
    int64_t left = 1'000'000'007;
    while (left > 0) {
      const int64_t bytes = SegmentBytes(80e6, left, connections);
      ASSERT_GT(bytes, 0);
      ASSERT_LE(bytes, left);
      left -= bytes;
    }
  }
}

TEST(TakenOverBytesTest, IsHalfOfWhatWillTakeLong) {
  EXPECT_EQ(TakenOverBytes(16 << 20, 10e6), 8 << 20);
  EXPECT_EQ(TakenOverBytes(16 << 20, 0), 8 << 20);
}

TEST(TakenOverBytesTest, NothingOfWhatIsSoonThereOrNotWorthARequest) {
  EXPECT_EQ(TakenOverBytes(16 << 20, 100e6), 0);
  EXPECT_EQ(TakenOverBytes((2 << 20) - 1, 1e3), 0);
  EXPECT_EQ(TakenOverBytes(2 << 20, 1e3), 1 << 20);
}

SegmentPace Pace() {
  return {.remaining_bytes = 10'000'000,
          .bytes_per_second = 100'000,
          .usual_bytes_per_second = 10e6,
          .since_begin = seconds(3)};
}

TEST(CrawlsTest, ASegmentFarSlowerThanTheOthersCrawls) {
  EXPECT_TRUE(Crawls(Pace()));
  SegmentPace pace = Pace();
  pace.bytes_per_second = 5e6;
  EXPECT_FALSE(Crawls(pace));
}

TEST(CrawlsTest, WhatIsSoonOverIsLeftAlone) {
  SegmentPace pace = Pace();
  pace.remaining_bytes = 100'000;  // a second, which a new connection would nearly need
  EXPECT_FALSE(Crawls(pace));
}

TEST(CrawlsTest, APaceIsBelievedAfterTwoSeconds) {
  SegmentPace pace = Pace();
  pace.since_begin = seconds(1);
  EXPECT_FALSE(Crawls(pace));
  pace.since_begin = seconds(3);
  pace.bytes_per_second = -1;  // not measured yet
  EXPECT_FALSE(Crawls(pace));
}

TEST(CrawlsTest, WithoutOthersOnlySilenceCounts) {
  SegmentPace pace = Pace();
  pace.usual_bytes_per_second = 0;
  pace.since_begin = seconds(6);
  EXPECT_FALSE(Crawls(pace));
  pace.bytes_per_second = 0;
  EXPECT_TRUE(Crawls(pace));
  pace.since_begin = seconds(3);
  EXPECT_FALSE(Crawls(pace));
}

}  // namespace
}  // namespace modeld
