// Mirrors, tokens, quotas and the offline mode, as HubClient's callers see them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "server/base/file.h"
#include "server/hub/hub_client.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_hub.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::Pair;
using testing::SizeIs;
using testing::UnorderedElementsAre;

constexpr char kNobody[] = "http://127.0.0.1:1";
const HubRepo kRepo{"acme/tiny"};

class HubAccessTest : public testing::Test {
 protected:
  HubAccessTest() {
    for (FakeHub* hub : {&hub_, &mirror_}) {
      hub->AddFile(kRepo.id, "config.json", "{}");
      hub->AddFile(kRepo.id, "model.safetensors", "weights");
    }
  }

  HubClient::Options Options(const std::string& endpoint, bool send_token = false) {
    return {.endpoint = endpoint,
            .token = "hf_secret",
            .mirrors = {{.url = mirror_.url() + "/", .send_token = send_token}},
            .retries_max = 2,
            .first_byte_timeout = milliseconds(500),
            .on_retry = [this](std::string_view reason) { ++retries_[std::string(reason)]; }};
  }
  absl::Status Resolve(HubClient& client, const HubRepo& repo = kRepo) {
    return client.ResolveRevision(repo, "main", {}, {}).status();
  }

  FakeHub hub_;
  FakeHub mirror_;
  TempDir folder_;
  std::map<std::string, int> retries_;
  FakeClock clock_;
};

TEST_F(HubAccessTest, AMirrorAnswersForAHubThatIsNotReached) {
  HubClient client(Options(kNobody), clock_);

  const auto commit = client.ResolveRevision(kRepo, "main", {}, {});
  ASSERT_THAT(commit, IsOk());
  const auto listing = client.ListFiles(kRepo, *commit, {}, {});
  ASSERT_THAT(listing, IsOk());
  EXPECT_THAT(listing->files, SizeIs(2));
  EXPECT_EQ(*client.ReadRange(kRepo, *commit, "model.safetensors", 0, 100, {}, {}), "weights");

  EXPECT_THAT(clock_.slept(), IsEmpty()) << "nobody there is no reason to wait";
  EXPECT_EQ(retries_["mirror"], 1);
}

TEST_F(HubAccessTest, AMirrorGetsTheTokenOnlyWhenItsEntrySaysSo) {
  HubClient silent(Options(kNobody), clock_);
  ASSERT_THAT(Resolve(silent), IsOk());
  EXPECT_THAT(mirror_.Requests(), ElementsAre(Field(&FakeHubRequest::had_token, false)));
  EXPECT_EQ(*silent.TokenFor(kRepo, mirror_.url() + "/x"), "");
  EXPECT_EQ(*silent.TokenFor(kRepo, std::string(kNobody) + "/x"), "hf_secret");
  mirror_.ClearRequests();

  HubClient trusting(Options(kNobody, /*send_token=*/true), clock_);
  ASSERT_THAT(Resolve(trusting), IsOk());
  EXPECT_THAT(mirror_.Requests(), ElementsAre(Field(&FakeHubRequest::had_token, true)));
}

TEST_F(HubAccessTest, TheTokenOfAPrivateHubNeverGoesToThePublicOne) {
  HubClient ours(Options(hub_.url()), clock_);
  HubClient theirs(Options("https://huggingface.co"), clock_);

  EXPECT_EQ(*ours.TokenFor(kRepo, "https://huggingface.co/x"), "");
  EXPECT_EQ(*theirs.TokenFor(kRepo, "https://hf.co/x"), "hf_secret");
  EXPECT_EQ(*theirs.TokenFor(kRepo, "https://huggingface.co.evil.example/x"), "");
  EXPECT_EQ(*theirs.TokenFor(kRepo, "http://huggingface.co/x"), "");
}

TEST_F(HubAccessTest, AFailingHubIsLeftAloneForAMinute) {
  HubClient client(Options(hub_.url()), clock_);
  hub_.AddFault(R"({"kind":"status","status":503})");

  EXPECT_THAT(Resolve(client), IsOk());
  EXPECT_THAT(hub_.Requests(), SizeIs(3)) << "retries come first";
  EXPECT_THAT(retries_, UnorderedElementsAre(Pair("status_503", 2), Pair("mirror", 1)));
  EXPECT_THAT(Resolve(client), IsOk());
  EXPECT_THAT(hub_.Requests(), SizeIs(3));
  EXPECT_EQ(client.AddressOf(kRepo, "main", "f").endpoint, mirror_.url());

  hub_.ClearFaults();
  clock_.Advance(seconds(61));
  mirror_.ClearRequests();
  EXPECT_THAT(Resolve(client), IsOk());
  EXPECT_THAT(mirror_.Requests(), IsEmpty());
  EXPECT_EQ(client.AddressOf(kRepo, "main", "f").endpoint, hub_.url());
}

TEST_F(HubAccessTest, AListingThatBreaksOffIsReadWholeFromTheMirror) {
  hub_.Set(R"({"page_size":1})");
  hub_.AddFault(R"({"kind":"status","on":"api","path":"*/tree/*","status":500,"after":1})");
  HubClient client(Options(hub_.url()), clock_);

  const auto listing = client.ListFiles(kRepo, "main", {}, {});

  ASSERT_THAT(listing, IsOk());
  EXPECT_THAT(listing->files, SizeIs(2));
}

TEST_F(HubAccessTest, WhatTheHubRefusesNoMirrorGives) {
  mirror_.AddFile("acme/more", "config.json", "{}");
  hub_.ChangeRepo(kRepo.id, R"({"gated":"auto","tokens":["another"]})");
  HubClient client(Options(hub_.url(), /*send_token=*/true), clock_);

  EXPECT_THAT(Resolve(client, {"acme/more"}), HasReasonOf(Reason::kHubRepoNotFound));
  EXPECT_THAT(client.Locate(kRepo, "main", "config.json", {}, {}),
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(client.Locate(kRepo, "main", "none", {}, {}), HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(mirror_.Requests(), IsEmpty());
}

TEST_F(HubAccessTest, AMirrorThatLacksARepositoryDoesNotSpeakForTheHub) {
  HubClient client(Options(kNobody), clock_);

  const absl::Status status = Resolve(client, {"acme/none"});

  EXPECT_THAT(status, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_TRUE(DetailsOf(status).retry_after.has_value());
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr(kNobody), HasSubstr("mirror " + mirror_.url())));
}

TEST_F(HubAccessTest, TheHubIsStillAskedWhenTheMirrorThatStandsInLacksSomething) {
  HubClient client(Options(hub_.url()), clock_);
  hub_.AddFile("acme/more", "config.json", "{}");
  ASSERT_TRUE(client.SetAside(hub_.url()));

  EXPECT_THAT(Resolve(client, {"acme/more"}), IsOk());
}

TEST_F(HubAccessTest, AMirrorHasItsShareOfAShortDeadline) {
  hub_.AddFault(R"({"kind":"stall","on":"api","bytes":-1})");
  HubClient::Options options = Options(hub_.url());
  options.first_byte_timeout = seconds(30);
  HubClient client(options, Clock::Real());

  EXPECT_THAT(
      client.ResolveRevision(kRepo, "main", {.deadline = milliseconds(1'500), .retry = false}, {}),
      IsOk());
}

TEST_F(HubAccessTest, OfflineAsksNobody) {
  HubClient::Options options = Options(hub_.url());
  options.offline = true;
  HubClient client(options, clock_);

  for (const absl::Status& status :
       {Resolve(client), client.ListFiles(kRepo, "main", {}, {}).status(),
        client.Locate(kRepo, "main", "config.json", {}, {}).status(),
        client.ReadRange(kRepo, "main", "config.json", 0, 1, {}, {}).status(),
        client.WaitForTurn(kRepo, hub_.cdn_url() + "/x", {})}) {
    EXPECT_THAT(status, HasReasonOf(Reason::kHubUnavailable));
    EXPECT_THAT(std::string(status.message()), HasSubstr("offline"));
    EXPECT_FALSE(DetailsOf(status).retry_after.has_value()) << "waiting does not help";
  }
  EXPECT_THAT(hub_.Requests(), IsEmpty());
  EXPECT_THAT(mirror_.Requests(), IsEmpty());
}

TEST_F(HubAccessTest, ARepositoryOpensWithItsOwnCredential) {
  hub_.ChangeRepo(kRepo.id, R"({"gated":"manual","tokens":["hf_team"]})");
  ASSERT_THAT(WriteFileAtomically(folder_.path() + "/team", "hf_team\n"), IsOk());
  HubClient::Options options = Options(hub_.url());
  options.credentials_dir = folder_.path();
  HubClient client(options, clock_);

  EXPECT_THAT(client.Locate(kRepo, "main", "config.json", {}, {}),
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(client.Locate({kRepo.id, "team"}, "main", "config.json", {}, {}), IsOk());
  const absl::Status missing = Resolve(client, {kRepo.id, "nobody"});
  EXPECT_THAT(missing, HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(std::string(missing.message()), AllOf(HasSubstr("nobody"), Not(HasSubstr("hf_"))));
}

TEST_F(HubAccessTest, ATokenThatWasReplacedIsUsedWithoutARestart) {
  hub_.Set(R"({"tokens":["hf_new"]})");
  const std::string path = folder_.path() + "/token";
  ASSERT_THAT(WriteFileAtomically(path, "hf_old"), IsOk());
  HubClient::Options options = Options(hub_.url());
  options.token_file = path;
  HubClient client(options, clock_);
  EXPECT_THAT(Resolve(client), HasReasonOf(Reason::kHubAccessDenied));

  ASSERT_THAT(WriteFileAtomically(path, "hf_new"), IsOk());

  EXPECT_THAT(Resolve(client), IsOk());
}

TEST_F(HubAccessTest, TheLastRequestOfAWindowIsTheLast) {
  hub_.AddFault(
      R"({"kind":"headers","on":"api","headers":{"RateLimit":"\"api\";r=0;t=20"},"times":1})");
  HubClient client(Options(hub_.url()), clock_);
  ASSERT_THAT(Resolve(client), IsOk());
  EXPECT_THAT(client.Locate(kRepo, "main", "config.json", {}, {}), IsOk());
  EXPECT_THAT(clock_.slept(), IsEmpty()) << "files are counted apart";

  ASSERT_THAT(Resolve(client), IsOk());

  EXPECT_THAT(clock_.slept(), ElementsAre(seconds(21)));
  EXPECT_EQ(retries_["rate_limit"], 1);
}

TEST_F(HubAccessTest, ManyThreadsStayWithinOneQuota) {
  hub_.Set(R"({"quotas":{"api":6,"window_s":1}})");
  HubClient::Options options = Options(hub_.url());
  options.on_retry = nullptr;
  HubClient client(options, Clock::Real());
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        for (int n = 0; n < 4; ++n) EXPECT_THAT(Resolve(client), IsOk());
      });
    }
  }

  EXPECT_THAT(hub_.Requests(), AllOf(SizeIs(16), Each(Field(&FakeHubRequest::status, 200))));
}

}  // namespace
}  // namespace modeld
