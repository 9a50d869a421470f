#include "server/download/retry.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>

#include "tests/support/fake_clock.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

HttpResponse With(const std::string& name, const std::string& value) {
  HttpResponse response;
  response.status = 429;
  response.headers.emplace_back(name, value);
  return response;
}

TEST(RetryAfterTest, ReadsBothHeaders) {
  EXPECT_EQ(RetryAfterOf(With("Retry-After", "3")), milliseconds(3000));
  EXPECT_EQ(RetryAfterOf(With("retry-after", "0")), milliseconds(0));
  EXPECT_EQ(RetryAfterOf(With("RateLimit", R"("resolvers";r=0;t=12)")), milliseconds(13'000));
}

TEST(RetryAfterTest, IgnoresWhatSaysNothing) {
  EXPECT_EQ(RetryAfterOf(HttpResponse{}), std::nullopt);
  EXPECT_EQ(RetryAfterOf(With("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT")), std::nullopt);
  EXPECT_EQ(RetryAfterOf(With("Retry-After", "-5")), std::nullopt);
  EXPECT_EQ(RetryAfterOf(With("RateLimit", R"("resolvers";r=7;t=12)")), std::nullopt);
}

TEST(RetryAfterTest, NobodyIsMadeToWaitForADay) {
  EXPECT_EQ(RetryAfterOf(With("Retry-After", "86400")), milliseconds(300'000));
  EXPECT_EQ(RetryAfterOf(With("Retry-After", "9223372036854775807")), milliseconds(300'000));
}

TEST(BackoffTest, StaysBelowTheDoubledBaseAndThirtySeconds) {
  for (int attempt = 0; attempt < 40; ++attempt) {
    const milliseconds wait = BackoffOf(attempt, milliseconds(500));
    EXPECT_GE(wait, milliseconds(0));
    EXPECT_LE(wait, attempt < 6 ? milliseconds(500 << attempt) : milliseconds(30'000));
  }
}

TEST(HostPausesTest, OneOriginWaitsAndOthersDoNot) {
  FakeClock clock;
  HostPauses pauses(clock);
  pauses.Pause("https://a:443", milliseconds(700));
  pauses.Pause("https://a:443", milliseconds(200));  // does not make it shorter

  const auto now = clock.Steady();
  EXPECT_LE(pauses.Until("https://b:443"), now);
  EXPECT_EQ(pauses.Until("https://a:443"), now + milliseconds(700));
  clock.Advance(milliseconds(700));
  EXPECT_LE(pauses.Until("https://a:443"), clock.Steady());
}

}  // namespace
}  // namespace modeld
