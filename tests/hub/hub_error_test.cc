#include "server/hub/hub_error.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::seconds;
using testing::HasSubstr;
using testing::Not;

const HubSubject kSubject{
    .endpoint = "https://hub.example", .repo = "acme/tiny", .revision = "main"};

using Headers = std::vector<std::pair<std::string, std::string>>;

HubFailure Refusal(int status, Headers headers = {}) {
  return HubRefusal({.status = status, .headers = std::move(headers)}, kSubject);
}

TEST(HubErrorTest, ErrorCodesOfTheHubHaveTheirReasons) {
  EXPECT_THAT(Refusal(404, {{"X-Error-Code", "RevisionNotFound"}}).status,
              HasReasonOf(Reason::kHubRevisionNotFound));
  EXPECT_THAT(Refusal(404, {{"x-error-code", "EntryNotFound"}}).status,
              HasReasonOf(Reason::kHubEntryNotFound));
  EXPECT_THAT(Refusal(403, {{"X-Error-Code", "GatedRepo"}}).status,
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(Refusal(401, {{"X-Error-Code", "GatedRepo"}}).status,
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(Refusal(404, {{"X-Error-Code", "RepoNotFound"}}).status,
              HasReasonOf(Reason::kHubRepoNotFound));
}

TEST(HubErrorTest, AnonymousRefusalMeansMissingOrPrivate) {
  EXPECT_THAT(Refusal(401).status, HasReasonOf(Reason::kHubRepoNotFound));
}

TEST(HubErrorTest, RejectedTokenAndDisabledRepositoryAreDenials) {
  EXPECT_THAT(
      Refusal(401, {{"X-Error-Message", "Invalid credentials in Authorization header"}}).status,
      HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(Refusal(403, {{"X-Error-Message", "Access to this resource is disabled."}}).status,
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(Refusal(403).status, HasReasonOf(Reason::kHubAccessDenied));
}

TEST(HubErrorTest, PermanentRefusalsAreNotRetried) {
  for (const int status : {400, 401, 403, 404, 405, 410}) {
    EXPECT_FALSE(Refusal(status).retry) << status;
  }
}

TEST(HubErrorTest, TemporaryRefusalsAreRetriedAndSayWhen) {
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    const HubFailure failure = Refusal(status);

    EXPECT_TRUE(failure.retry) << status;
    EXPECT_THAT(failure.status, HasReasonOf(Reason::kHubUnavailable));
    EXPECT_TRUE(DetailsOf(failure.status).retry_after.has_value());
  }
}

TEST(HubErrorTest, MissingWithoutACodeCountsAsAnOutage) {
  EXPECT_THAT(Refusal(404).status, HasReasonOf(Reason::kHubUnavailable));
}

TEST(HubErrorTest, ServersTextIsMadePrintable) {
  const HubFailure failure =
      Refusal(403, {{"X-Error-Message", "a\x1b[31m" + std::string(900, 'x')}});

  const std::string message(failure.status.message());
  EXPECT_THAT(message, Not(HasSubstr("\x1b")));
  EXPECT_LT(message.size(), 400);
}

TEST(HubErrorTest, ExpiredUrlOfTheStorageIsRetried) {
  EXPECT_TRUE(StorageRefusal({.status = 403}, kSubject).retry);
  EXPECT_TRUE(StorageRefusal({.status = 503}, kSubject).retry);
  EXPECT_FALSE(StorageRefusal({.status = 404}, kSubject).retry);
  EXPECT_THAT(StorageRefusal({.status = 403}, kSubject).status,
              HasReasonOf(Reason::kHubUnavailable));
}

TEST(HubErrorTest, AskedWaitIsReadFromBothHeaders) {
  const auto wait = [](Headers headers) {
    return AskedWait(HttpResponse{.status = 429, .headers = std::move(headers)});
  };

  EXPECT_EQ(wait({{"Retry-After", "7"}}), seconds(8));
  EXPECT_EQ(wait({{"RateLimit", "\"resolvers\";r=0;t=12"}}), seconds(13));
  EXPECT_EQ(wait({{"RateLimit", "\"resolvers\";r=0;t=12"}, {"Retry-After", "99"}}), seconds(13));
  EXPECT_EQ(wait({{"RateLimit", "\"resolvers\";r=5;t=12"}}), std::nullopt);
  EXPECT_EQ(wait({{"Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"}}), std::nullopt);
  EXPECT_EQ(wait({{"Retry-After", "-5"}}), std::nullopt);
  EXPECT_EQ(wait({{"Retry-After", "999999999999"}}), seconds(3600));
  EXPECT_EQ(wait({}), std::nullopt);
}

TEST(HubErrorTest, TheQuotaIsTheOneWithTheFewestRequestsLeft) {
  const auto quota =
      ParseQuota({.headers = {{"RateLimit", R"("burst";r=90;t=1, "resolvers";r=12;t=200)"},
                              {"RateLimit-Policy", R"("fixed window";"resolvers";q=3000;w=300)"}}});

  ASSERT_TRUE(quota.has_value());
  EXPECT_EQ(quota->left, 12);
  EXPECT_EQ(quota->reset, seconds(200));
  EXPECT_EQ(quota->quota, 3000);
  EXPECT_EQ(quota->window, seconds(300));
}

TEST(HubErrorTest, AQuotaThatMakesNoSenseIsNone) {
  for (const char* header : {"", "soon", R"("api";r=;t=9)", R"("api";r=-1;t=9)", R"("api";r=5)"}) {
    EXPECT_FALSE(ParseQuota({.headers = {{"RateLimit", header}}}).has_value()) << header;
  }
}

}  // namespace
}  // namespace modeld
