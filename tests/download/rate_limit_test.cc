#include "server/download/rate_limit.h"

#include <gtest/gtest.h>

#include <chrono>
#include <stop_token>
#include <thread>
#include <vector>

#include "tests/support/fake_clock.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

// How much of the clock's time passes while `bytes` go through in pieces as libcurl's.
milliseconds TimeFor(FakeClock& clock, RateLimit& limit, int64_t bytes) {
  const auto begin = clock.Steady();
  for (int64_t at = 0; at < bytes; at += 16'384) EXPECT_TRUE(limit.Wait(16'384, {}));
  return std::chrono::duration_cast<milliseconds>(clock.Steady() - begin);
}

TEST(RateLimitTest, WithoutALimitNobodyWaits) {
  FakeClock clock;
  RateLimit limit(clock);

  EXPECT_EQ(TimeFor(clock, limit, 1 << 30), milliseconds(0));
}

TEST(RateLimitTest, LetsAsMuchPassAsItSays) {
  FakeClock clock;
  RateLimit limit(clock);
  limit.Set(1'000'000);

  const milliseconds took = TimeFor(clock, limit, 10'000'000);

  EXPECT_GE(took, milliseconds(9'900));
  EXPECT_LE(took, milliseconds(10'100));
}

TEST(RateLimitTest, SavesATenthOfASecondAtMost) {
  FakeClock clock;
  RateLimit limit(clock);
  limit.Set(1'000'000);
  EXPECT_TRUE(limit.Wait(1, {}));

  clock.Advance(std::chrono::hours(1));

  EXPECT_GE(TimeFor(clock, limit, 1'000'000), milliseconds(880));
}

TEST(RateLimitTest, APieceLargerThanASecondIsPaidForToo) {
  FakeClock clock;
  RateLimit limit(clock);
  limit.Set(1'000'000);
  const auto begin = clock.Steady();

  EXPECT_TRUE(limit.Wait(5'000'000, {}));

  EXPECT_GE(clock.Steady() - begin, milliseconds(4'900));
  EXPECT_LE(clock.Steady() - begin, milliseconds(5'000));
}

TEST(RateLimitTest, ChangesWhileItRuns) {
  FakeClock clock;
  RateLimit limit(clock);
  limit.Set(1'000'000);
  TimeFor(clock, limit, 2'000'000);

  limit.Set(4'000'000);
  const milliseconds faster = TimeFor(clock, limit, 4'000'000);
  limit.Set(0);
  const milliseconds unlimited = TimeFor(clock, limit, 4'000'000);

  EXPECT_GE(faster, milliseconds(880));
  EXPECT_LE(faster, milliseconds(1'050));
  EXPECT_EQ(unlimited, milliseconds(0));
}

TEST(RateLimitTest, AStopEndsTheWait) {
  RateLimit limit;
  limit.Set(1);
  std::stop_source stop;
  stop.request_stop();

  EXPECT_FALSE(limit.Wait(1'000'000'000, stop.get_token()));
}

// Four connections together get what one would.
TEST(RateLimitTest, IsSharedByAllWhoUseIt) {
  RateLimit limit;
  limit.Set(50'000'000);
  const auto begin = std::chrono::steady_clock::now();

  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int piece = 0; piece < 200; ++piece) EXPECT_TRUE(limit.Wait(16'384, {}));
      });
    }
  }

  // 13.1 MB at 50 MB/s, less what was saved before.
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(160));
}

}  // namespace
}  // namespace modeld
