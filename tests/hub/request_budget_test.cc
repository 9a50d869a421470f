#include "server/hub/request_budget.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/fake_clock.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::Eq;
using testing::SizeIs;

using Headers = std::vector<std::pair<std::string, std::string>>;

class RequestBudgetTest : public testing::Test {
 protected:
  void Heed(Headers headers, int status = 200) {
    budget_.Heed(kApi, {.status = status, .headers = std::move(headers)});
  }
  std::optional<milliseconds> Take() { return budget_.Take(kApi); }

  const RequestBudget::Bucket kApi{"https://hub.example:443", HubRequestKind::kApi, ""};
  std::vector<milliseconds> pauses_;
  FakeClock clock_;
  RequestBudget budget_{[this](const auto&, milliseconds wait) { pauses_.push_back(wait); },
                        clock_};
};

TEST_F(RequestBudgetTest, NothingIsLimitedWithoutHeaders) {
  Heed({});

  for (int i = 0; i < 1000; ++i) EXPECT_EQ(Take(), std::nullopt);
}

TEST_F(RequestBudgetTest, WhatIsLeftIsSpentAndThenTheWindowIsWaitedFor) {
  Heed({{"RateLimit", R"("api";r=2;t=30)"}});

  EXPECT_EQ(Take(), std::nullopt);
  EXPECT_EQ(Take(), std::nullopt);
  EXPECT_THAT(Take(), Eq(seconds(31)));
  clock_.Advance(seconds(10));
  EXPECT_THAT(Take(), Eq(seconds(21)));
}

TEST_F(RequestBudgetTest, ANewWindowHasTheQuotaOfThePolicy) {
  Heed({{"RateLimit", R"("api";r=0;t=9)"},
        {"RateLimit-Policy", R"("fixed window";"api";q=3;w=300)"}});
  clock_.Advance(seconds(10));

  for (int i = 0; i < 3; ++i) EXPECT_EQ(Take(), std::nullopt);
  EXPECT_THAT(Take(), Eq(seconds(300)));
}

TEST_F(RequestBudgetTest, ALateAnswerGivesNothingBack) {
  Heed({{"RateLimit", R"("api";r=1;t=30)"}});
  EXPECT_EQ(Take(), std::nullopt);

  Heed({{"RateLimit", R"("api";r=5;t=30)"}});  // sent before the one that said 1

  EXPECT_THAT(Take(), Eq(seconds(31)));
}

TEST_F(RequestBudgetTest, RequestsOnTheWayAreNotSpentTwice) {
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Take(), std::nullopt);

  Heed({{"RateLimit", R"("api";r=5;t=30)"}});  // the first of the four

  for (int i = 0; i < 2; ++i) EXPECT_EQ(Take(), std::nullopt);
  EXPECT_THAT(Take(), Eq(seconds(31)));
}

TEST_F(RequestBudgetTest, RequestsThatNeverGotAnAnswerAreForgotten) {
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Take(), std::nullopt);
  clock_.Advance(seconds(31));
  EXPECT_EQ(Take(), std::nullopt);

  Heed({{"RateLimit", R"("api";r=5;t=30)"}});

  for (int i = 0; i < 5; ++i) EXPECT_EQ(Take(), std::nullopt);
  EXPECT_NE(Take(), std::nullopt);
}

TEST_F(RequestBudgetTest, RefusedRequestsPauseTheBucket) {
  Heed({{"Retry-After", "4"}}, 429);

  EXPECT_THAT(Take(), Eq(seconds(5)));
  clock_.Advance(seconds(5));
  EXPECT_EQ(Take(), std::nullopt);
}

TEST_F(RequestBudgetTest, APauseIsToldOnce) {
  Heed({{"RateLimit", R"("api";r=0;t=30)"}});

  for (int i = 0; i < 5; ++i) EXPECT_NE(Take(), std::nullopt);
  EXPECT_THAT(pauses_, SizeIs(1));

  clock_.Advance(seconds(31));
  Heed({{"RateLimit", R"("api";r=0;t=30)"}}, 429);
  EXPECT_NE(Take(), std::nullopt);
  EXPECT_THAT(pauses_, SizeIs(2));
}

TEST_F(RequestBudgetTest, KindsAndTokensAreCountedApart) {
  Heed({{"RateLimit", R"("api";r=0;t=30)"}});

  EXPECT_NE(Take(), std::nullopt);
  EXPECT_EQ(budget_.Take({kApi.origin, HubRequestKind::kResolvers, ""}), std::nullopt);
  EXPECT_EQ(budget_.Take({kApi.origin, HubRequestKind::kApi, "team"}), std::nullopt);
  EXPECT_EQ(budget_.Take({"https://mirror.example:443", HubRequestKind::kApi, ""}), std::nullopt);
}

TEST(HubRequestKindTest, ListingsAreApiAndFilesAreResolvers) {
  EXPECT_EQ(KindOfRequest("https://h/api/models/a/b/tree/main?recursive=true"),
            HubRequestKind::kApi);
  EXPECT_EQ(KindOfRequest("https://h/a/b/resolve/main/f"), HubRequestKind::kResolvers);
  EXPECT_EQ(KindOfRequest("https://h/api/resolve-cache/models/a/b/c/f"),
            HubRequestKind::kResolvers);
}

}  // namespace
}  // namespace modeld
