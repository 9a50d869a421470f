// Whose token, which mirror, how fast: what bodies share with every other request to the hub.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using testing::Each;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// One program with a hub client of the test's making.
struct Program {
  explicit Program(const HubClient::Options& options)
      : client(options, Clock::Real()), pool(QuickOptions(), client, metrics, Clock::Real()) {}

  absl::StatusOr<SnapshotResult> Download(SnapshotRequest request) {
    return DownloadSnapshot(request, pool, {}, {}, {});
  }

  Metrics metrics;
  HubClient client;
  DownloadPool pool;
};

class DownloadAccessTest : public DownloadTest {
 protected:
  HubClient::Options Options() const {
    return {.endpoint = hub_.url(),
            .token = std::string(kToken),
            .credentials_dir = dir_.path(),
            .retries_max = 1,
            .backoff_base = milliseconds(10)};
  }
  HubClient::Options WithMirror() {
    mirror_.AddFile(kRepo, "model.safetensors", TestBytes(3'333'333, 1));
    mirror_.AddFile(kRepo, "config.json", TestBytes(900, 2));
    mirror_.AddFile(kRepo, "sub/tokenizer.json", TestBytes(500'000, 3));
    HubClient::Options options = Options();
    options.mirrors = {{.url = mirror_.url()}};
    return options;
  }
  SnapshotRequest Request(const std::string& token_credential = "") {
    Downloader lister(hub_);
    SnapshotRequest request = lister.Request(cache_);
    request.token_credential = token_credential;
    hub_.ClearRequests();
    return request;
  }

  FakeHub mirror_;
};

TEST_F(DownloadAccessTest, AMirrorGivesTheBytesThatTheStorageOfTheHubDoesNot) {
  AddModel();
  const SnapshotRequest request = Request();
  Program program(WithMirror());
  hub_.AddFault(R"({"kind":"status","on":"cdn","status":503})");

  EXPECT_THAT(program.Download(request), IsOk());

  ExpectComplete(request.listing);
  EXPECT_THAT(mirror_.Requests(), Each(Field(&FakeHubRequest::had_token, false)));
}

TEST_F(DownloadAccessTest, AMirrorGivesTheFilesOfAHubThatIsGone) {
  AddModel();
  const SnapshotRequest request = Request();
  HubClient::Options options = WithMirror();
  options.endpoint = "http://127.0.0.1:1";
  Program program(options);

  EXPECT_THAT(program.Download(request), IsOk());

  ExpectComplete(request.listing);
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

TEST_F(DownloadAccessTest, WrongBytesOfOneHubAreAskedOfTheOther) {
  AddModel();
  const SnapshotRequest request = Request();
  Program program(WithMirror());
  hub_.AddFault(R"({"kind":"corrupt","on":"cdn","offset":99})");

  EXPECT_THAT(program.Download(request), IsOk());

  ExpectComplete(request.listing);
}

TEST_F(DownloadAccessTest, BytesOfAMirrorAreCheckedLikeAllOthers) {
  AddModel();
  const SnapshotRequest request = Request();
  HubClient::Options options = WithMirror();
  options.endpoint = "http://127.0.0.1:1";
  Program program(options);
  mirror_.AddFault(R"({"kind":"corrupt","on":"cdn","offset":99})");

  EXPECT_THAT(program.Download(request), HasReasonOf(Reason::kDigestMismatch));
}

TEST_F(DownloadAccessTest, BodiesComeWithTheCredentialOfTheirRepository) {
  AddModel();
  const SnapshotRequest anonymous = Request();
  hub_.Set(R"({"tokens":null})");
  hub_.ChangeRepo(kRepo, R"({"gated":"manual","tokens":["hf_team"]})");
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/team", "hf_team\n"), IsOk());
  Program program(Options());

  EXPECT_THAT(program.Download(anonymous), HasReasonOf(Reason::kHubAccessDenied));
  SnapshotRequest missing = anonymous;
  missing.token_credential = "nobody";
  const absl::Status refused = program.Download(missing).status();
  EXPECT_THAT(refused, HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("\"nobody\""));
  SnapshotRequest allowed = anonymous;
  allowed.token_credential = "team";
  EXPECT_THAT(program.Download(allowed), IsOk());

  ExpectComplete(allowed.listing);
  for (const FakeHubRequest& seen : hub_.Requests()) {
    EXPECT_TRUE(seen.port == "hub" || !seen.had_token) << seen.path;
  }
}

TEST_F(DownloadAccessTest, SmallFilesKeepToTheQuotaOfTheHub) {
  for (int i = 0; i < 12; ++i) {
    hub_.AddFile(kRepo, "part-" + std::to_string(i) + ".json", "content " + std::to_string(i));
  }
  const SnapshotRequest request = Request();
  hub_.Set(R"({"quotas":{"resolvers":8,"window_s":1}})");
  Program program(Options());

  EXPECT_THAT(program.Download(request), IsOk());

  EXPECT_THAT(hub_.Requests(), Each(Field(&FakeHubRequest::status, Not(429))));
}

TEST_F(DownloadAccessTest, OfflineFailsAtOnceAndAsksNobody) {
  AddModel();
  const SnapshotRequest request = Request();
  HubClient::Options options = Options();
  options.offline = true;
  Program program(options);

  const absl::Status status = program.Download(request).status();

  EXPECT_THAT(status, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_THAT(std::string(status.message()), HasSubstr("offline"));
  EXPECT_FALSE(DetailsOf(status).retry_after.has_value());
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

}  // namespace
}  // namespace modeld
