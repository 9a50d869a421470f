#include "server/hub/hub_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "server/base/sha256.h"
#include "server/curl/url.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_hub.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::Field;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;
using testing::Not;
using testing::SizeIs;

constexpr char kToken[] = "hf_secret";
constexpr char kTiny[] = "acme/tiny";

std::string Digest(std::string_view content) {
  Sha256 sha;
  sha.Update(content);
  return sha.HexDigest();
}

class HubClientTest : public testing::Test {
 protected:
  HubClientTest() : weights_(TestBytes(300'000, 1)) {
    hub_.AddFile(kTiny, "config.json", "{}");
    hub_.AddFile(kTiny, "model.safetensors", weights_);
  }

  HubClient::Options Options() const {
    return {.endpoint = hub_.url(),
            .token = kToken,
            .retries_max = 3,
            .first_byte_timeout = milliseconds(500)};
  }
  std::string Main(const std::string& repo = kTiny) {
    const auto commit = client_.ResolveRevision({repo}, "main", patience_, {});
    EXPECT_THAT(commit, IsOk());
    return commit.value_or("");
  }
  absl::StatusOr<FileLocation> Locate(const std::string& path) {
    return client_.Locate({kTiny}, "main", path, patience_, {});
  }
  int64_t SleepCount() const { return std::ssize(clock_.slept()); }

  FakeHub hub_;
  FakeClock clock_;
  HubClient client_{Options(), clock_};
  const HubClient::Patience patience_;
  const std::string weights_;
};

TEST_F(HubClientTest, RevisionBecomesACommit) { EXPECT_TRUE(IsCommit(Main())); }

TEST_F(HubClientTest, CommitIsResolvedWithoutARequest) {
  const std::string commit(40, 'a');

  EXPECT_EQ(*client_.ResolveRevision({kTiny}, commit, patience_, {}), commit);
  EXPECT_THAT(hub_.Requests(), SizeIs(0));
}

TEST_F(HubClientTest, BranchMovesTagStays) {
  hub_.AddRevisionFile("acme/two", "v1", "f", "one");
  hub_.AddRevisionFile("acme/two", "v2", "f", "two");
  const std::string v1 = *client_.ResolveRevision({"acme/two"}, "v1", patience_, {});
  EXPECT_NE(Main("acme/two"), v1);

  hub_.ChangeRepo("acme/two", R"({"branches":{"main":"v1"}})");

  EXPECT_EQ(Main("acme/two"), v1);
}

TEST_F(HubClientTest, RevisionNameIsQuotedWhole) {
  hub_.ChangeRepo(kTiny, R"({"branches":{"refs/pr/1":"main","50%#&é":"main"}})");

  for (const char* revision : {"refs/pr/1", "50%#&é"}) {
    EXPECT_THAT(client_.ResolveRevision({kTiny}, revision, patience_, {}), IsOk()) << revision;
  }

  EXPECT_EQ(hub_.Requests()[0].path, "/api/models/acme/tiny/revision/refs/pr/1");
  EXPECT_EQ(hub_.Requests()[1].path, "/api/models/acme/tiny/revision/50%#&é");
}

TEST_F(HubClientTest, ListingHasEveryFileWithItsBlob) {
  hub_.AddFile(kTiny, "sub/empty.txt", "");

  const auto listing = client_.ListFiles({kTiny}, Main(), patience_, {});

  ASSERT_THAT(listing, IsOk());
  ASSERT_THAT(listing->files, SizeIs(3));
  EXPECT_EQ(listing->commit, Main());
  EXPECT_EQ(listing->files[0].path, "config.json");
  EXPECT_FALSE(listing->files[0].lfs);
  EXPECT_EQ(listing->files[1].blob, Digest(weights_));
  EXPECT_EQ(listing->files[1].size_bytes, 300'000);
  EXPECT_TRUE(listing->files[1].lfs);
  EXPECT_EQ(listing->files[2].blob, "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

TEST_F(HubClientTest, ListingGoesOverAllPages) {
  for (int i = 0; i < 5; ++i) {
    hub_.AddFile(kTiny, "f" + std::to_string(i), "content " + std::to_string(i));
  }
  hub_.Set(R"({"page_size":2})");
  hub_.AddFault(
      R"({"kind":"status","on":"api","path":"*/tree/*","status":503,"after":1,"times":1})");

  const auto listing = client_.ListFiles({kTiny}, Main(), patience_, {});

  ASSERT_THAT(listing, IsOk());
  EXPECT_THAT(listing->files, SizeIs(7));
}

TEST_F(HubClientTest, PageOnAnotherHostGetsNoToken) {
  FakeHub other;
  other.AddFile("acme/other", "more.txt", "more");
  hub_.AddFault(R"({"kind":"headers","on":"api","path":"*/tree/*","headers":{"Link":"<)" +
                other.url() +
                R"(/api/models/acme/other/tree/main?recursive=true>; rel=\"next\""}})");

  const auto listing = client_.ListFiles({kTiny}, "main", patience_, {});

  ASSERT_THAT(listing, IsOk());
  EXPECT_THAT(listing->files, SizeIs(3));
  EXPECT_THAT(other.Requests(), ElementsAre(Field(&FakeHubRequest::had_token, false)));
}

TEST_F(HubClientTest, ListingThatPointsToItselfEnds) {
  hub_.AddFault(R"({"kind":"headers","on":"api","path":"*/tree/*","headers":{
      "Link":"<{hub}/api/models/acme/tiny/tree/main?recursive=true&expand=false>; rel=\"next\""}})");

  EXPECT_THAT(client_.ListFiles({kTiny}, "main", patience_, {}),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST_F(HubClientTest, HostileListingIsRefused) {
  hub_.AddFault(R"({"kind":"listing","entries":[{"type":"file","path":"../../etc/passwd","size":1,
      "oid":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}]})");

  EXPECT_THAT(client_.ListFiles({kTiny}, "main", patience_, {}),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST_F(HubClientTest, SmallFileIsOnTheHub) {
  const auto location = Locate("config.json");

  ASSERT_THAT(location, IsOk());
  EXPECT_TRUE(SameOrigin(location->url, hub_.url()));
  EXPECT_TRUE(location->send_token);
  EXPECT_EQ(location->size_bytes, 2);
  EXPECT_EQ(location->commit, Main());
  EXPECT_THAT(location->etag, SizeIs(40));
}

TEST_F(HubClientTest, LfsFileIsOnTheStorageHostThatGetsNoToken) {
  const auto location = Locate("model.safetensors");

  ASSERT_THAT(location, IsOk());
  EXPECT_TRUE(SameOrigin(location->url, hub_.cdn_url()));
  EXPECT_FALSE(location->send_token);
  EXPECT_EQ(location->size_bytes, 300'000);
  EXPECT_EQ(location->etag, Digest(weights_));
}

TEST_F(HubClientTest, RelativeRedirectIsFollowedWithQueryAndToken) {
  hub_.Set(R"({"resolve_cache":true})");

  const auto location = Locate("config.json");

  ASSERT_THAT(location, IsOk());
  EXPECT_THAT(location->url, AllOf(HasSubstr("/api/resolve-cache/"), HasSubstr("?etag=")));
  EXPECT_TRUE(location->send_token);
  EXPECT_THAT(hub_.Requests(), Each(Field(&FakeHubRequest::had_token, true)));
}

TEST_F(HubClientTest, OddFileNamesAreQuoted) {
  const std::string name = "a dir/b#c%20d?e&f+\xc3\xa9.txt";
  hub_.AddFile(kTiny, name, "odd");

  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", name, 0, 100, patience_, {}), "odd");
}

TEST_F(HubClientTest, RedirectLoopEnds) {
  hub_.AddFault(R"({"kind":"redirect","on":"resolve","location":"{self}"})");

  const auto location = Locate("config.json");

  EXPECT_THAT(location, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_THAT(hub_.Requests(), SizeIs(21));
}

TEST_F(HubClientTest, ApiThatRedirectsToAnotherHostIsNotFollowed) {
  FakeHub other;
  hub_.AddFault(R"({"kind":"redirect","on":"api","location":")" + other.url() + "/api/models/x\"}");

  EXPECT_THAT(client_.ResolveRevision({kTiny}, "main", patience_, {}),
              HasReasonOf(Reason::kHubUnavailable));
  EXPECT_THAT(other.Requests(), SizeIs(0));
  EXPECT_EQ(SleepCount(), 0);
}

TEST_F(HubClientTest, OtherCommitThanThePinnedOneIsRefused) {
  const std::string commit = Main();
  hub_.AddFault(R"({"kind":"headers","on":"resolve","headers":{
      "X-Repo-Commit":"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"}})");

  EXPECT_THAT(client_.Locate({kTiny}, commit, "config.json", patience_, {}),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST_F(HubClientTest, HostileEtagIsRefused) {
  hub_.AddFault(R"({"kind":"headers","on":"resolve","headers":{
      "ETag":"\"../../../etc/cron.d/x\"","X-Linked-Etag":"\"../../../etc/cron.d/x\""}})");

  EXPECT_THAT(Locate("config.json"), HasReasonOf(Reason::kInvalidRepository));
}

TEST_F(HubClientTest, ServerThatIsNoHubIsUnavailable) {
  hub_.AddFault(R"({"kind":"headers","on":"resolve","headers":{"X-Repo-Commit":null}})");

  EXPECT_THAT(Locate("config.json"), HasReasonOf(Reason::kHubUnavailable));
}

TEST_F(HubClientTest, MissingThingsHaveTheirOwnReasons) {
  EXPECT_THAT(client_.ResolveRevision({"acme/none"}, "main", patience_, {}),
              HasReasonOf(Reason::kHubRepoNotFound));
  EXPECT_THAT(client_.ResolveRevision({kTiny}, "none", patience_, {}),
              HasReasonOf(Reason::kHubRevisionNotFound));
  EXPECT_THAT(Locate("none.json"), HasReasonOf(Reason::kHubEntryNotFound));
  EXPECT_EQ(SleepCount(), 0);
}

TEST_F(HubClientTest, GatedPrivateAndDisabledRepositoriesAreTold) {
  hub_.ChangeRepo(kTiny, R"({"gated":"auto","tokens":["another"]})");
  EXPECT_THAT(Locate("config.json"), HasReasonOf(Reason::kHubAccessDenied));

  hub_.ChangeRepo(kTiny, R"({"gated":false,"private":true})");
  EXPECT_THAT(Locate("config.json"), HasReasonOf(Reason::kHubRepoNotFound));

  hub_.ChangeRepo(kTiny, R"({"private":false,"disabled":true})");
  EXPECT_THAT(Locate("config.json"), HasReasonOf(Reason::kHubAccessDenied));
}

TEST_F(HubClientTest, GrantedTokenOpensAPrivateRepository) {
  hub_.ChangeRepo(kTiny, R"({"private":true,"tokens":["hf_secret"]})");

  EXPECT_THAT(Locate("config.json"), IsOk());
}

TEST_F(HubClientTest, RejectedTokenIsADenial) {
  hub_.Set(R"({"tokens":["another"]})");

  const auto commit = client_.ResolveRevision({kTiny}, "main", patience_, {});

  EXPECT_THAT(commit, HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(std::string(commit.status().message()), Not(HasSubstr(kToken)));
}

TEST_F(HubClientTest, BadNamesNeverReachTheHub) {
  EXPECT_THAT(client_.ResolveRevision({"../x"}, "main", patience_, {}), NamesField("hf_path"));
  EXPECT_THAT(client_.ResolveRevision({kTiny}, "a b", patience_, {}), NamesField("revision"));
  EXPECT_THAT(Locate("../x"), HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(hub_.Requests(), SizeIs(0));
}

TEST_F(HubClientTest, ServerErrorsAreRetriedWithGrowingJitteredWaits) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503,"times":3})");

  EXPECT_TRUE(IsCommit(Main()));

  const auto slept = clock_.slept();
  ASSERT_THAT(slept, SizeIs(3));
  EXPECT_THAT(slept[0], AllOf(Ge(seconds(0)), Le(milliseconds(500))));
  EXPECT_THAT(slept[1], AllOf(Ge(seconds(0)), Le(milliseconds(1000))));
  EXPECT_THAT(slept[2], AllOf(Ge(seconds(0)), Le(milliseconds(2000))));
}

TEST_F(HubClientTest, RetriesEnd) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":500})");

  const auto commit = client_.ResolveRevision({kTiny}, "main", patience_, {});

  EXPECT_THAT(commit, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_TRUE(DetailsOf(commit.status()).retry_after.has_value());
  EXPECT_THAT(hub_.Requests(), SizeIs(4));
}

TEST_F(HubClientTest, ImpatientCallTriesOnce) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503})");

  EXPECT_THAT(
      client_.ResolveRevision({kTiny}, "main", {.deadline = seconds(5), .retry = false}, {}),
      HasReasonOf(Reason::kHubUnavailable));
  EXPECT_THAT(hub_.Requests(), SizeIs(1));
  EXPECT_EQ(SleepCount(), 0);
}

TEST_F(HubClientTest, RateLimitIsObeyedByAllCalls) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":429,"times":1,
      "headers":{"RateLimit":"\"api\";r=0;t=20"}})");
  EXPECT_THAT(
      client_.ResolveRevision({kTiny}, "main", {.deadline = seconds(5), .retry = false}, {}),
      HasReasonOf(Reason::kHubUnavailable));

  const auto early = client_.ResolveRevision({kTiny}, "main", {.deadline = seconds(5)}, {});
  const auto patient = client_.ResolveRevision({kTiny}, "main", patience_, {});

  EXPECT_THAT(early, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_EQ(DetailsOf(early.status()).retry_after, seconds(21));
  EXPECT_THAT(patient, IsOk());
  EXPECT_THAT(clock_.slept(), ElementsAre(seconds(21)));
  EXPECT_THAT(hub_.Requests(), SizeIs(2));
}

TEST_F(HubClientTest, WaitBeyondTheDeadlineIsNotBegun) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503,"headers":{"Retry-After":"300"}})");

  const auto commit = client_.ResolveRevision({kTiny}, "main", patience_, {});

  EXPECT_THAT(commit, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_EQ(DetailsOf(commit.status()).retry_after, seconds(301));
  EXPECT_EQ(SleepCount(), 0);
}

TEST_F(HubClientTest, CutsAndStallsAndNonsenseAreRetried) {
  hub_.AddFault(R"({"kind":"cut","on":"api","bytes":-1,"times":1})");
  EXPECT_TRUE(IsCommit(Main()));

  hub_.AddFault(R"({"kind":"stall","on":"api","bytes":-1,"times":1})");
  EXPECT_TRUE(IsCommit(Main()));

  hub_.AddFault(R"({"kind":"body","on":"api","body":"<html>log in</html>","times":1})");
  EXPECT_TRUE(IsCommit(Main()));

  EXPECT_EQ(SleepCount(), 3);
}

TEST_F(HubClientTest, UnreachableHubIsUnavailable) {
  HubClient client({.endpoint = "http://127.0.0.1:1", .retries_max = 1}, clock_);

  EXPECT_THAT(client.ResolveRevision({kTiny}, "main", patience_, {}),
              HasReasonOf(Reason::kHubUnavailable));
  EXPECT_EQ(SleepCount(), 1);
}

TEST_F(HubClientTest, StopEndsACall) {
  hub_.AddFault(R"({"kind":"stall","on":"api","bytes":-1})");
  HubClient::Options options = Options();
  options.first_byte_timeout = seconds(60);
  HubClient client(options, clock_);
  std::stop_source source;
  absl::Status result;
  std::jthread caller([&] {
    result = client.ResolveRevision({kTiny}, "main", patience_, source.get_token()).status();
  });

  source.request_stop();
  caller.join();

  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(HubClientTest, RangeOfAFileIsRead) {
  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 1000, 500, patience_, {}),
            weights_.substr(1000, 500));
  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 299'990, 500, patience_, {}),
            weights_.substr(299'990));
  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 300'000, 500, patience_, {}),
            "");
  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "config.json", 0, 1 << 20, patience_, {}), "{}");
}

TEST_F(HubClientTest, StorageHostNeverSeesTheToken) {
  ASSERT_THAT(client_.ReadRange({kTiny}, "main", "model.safetensors", 0, 10, patience_, {}),
              IsOk());

  for (const FakeHubRequest& request : hub_.Requests()) {
    EXPECT_EQ(request.had_token, request.port == "hub") << request.path;
  }
}

TEST_F(HubClientTest, RangeIsReadFromAServerWithoutRanges) {
  hub_.AddFault(R"({"kind":"ignore_range","on":"cdn"})");

  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 1000, 500, patience_, {}),
            weights_.substr(1000, 500));
}

TEST_F(HubClientTest, WrongRangeIsNotBelieved) {
  hub_.AddFault(R"({"kind":"wrong_range","on":"cdn","shift":7,"times":1})");

  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 1000, 500, patience_, {}),
            weights_.substr(1000, 500));
  EXPECT_EQ(SleepCount(), 1);
}

TEST_F(HubClientTest, ExpiredUrlIsAskedForAgain) {
  hub_.AddFault(R"({"kind":"status","on":"cdn","status":403,"times":1})");

  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 0, 4, patience_, {}),
            weights_.substr(0, 4));
  const auto requests = hub_.Requests();
  EXPECT_EQ(std::count_if(requests.begin(), requests.end(),
                          [](const FakeHubRequest& r) { return r.method == "HEAD"; }),
            2);
}

TEST_F(HubClientTest, CutBodyIsReadAgain) {
  hub_.AddFault(R"({"kind":"cut","on":"cdn","bytes":100,"times":2})");

  EXPECT_EQ(*client_.ReadRange({kTiny}, "main", "model.safetensors", 0, 5000, patience_, {}),
            weights_.substr(0, 5000));
}

}  // namespace
}  // namespace modeld
