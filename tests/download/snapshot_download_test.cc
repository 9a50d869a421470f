#include "server/download/snapshot_download.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

class SnapshotDownloadTest : public DownloadTest {
 protected:
  // All that lies below the repository's folder, with links as "path -> target".
  std::vector<std::string> Everything() {
    std::vector<std::string> out;
    for (const auto& entry : fs::recursive_directory_iterator(repo_.repo_path())) {
      const std::string path =
          fs::relative(entry.path().parent_path(), repo_.repo_path()) / entry.path().filename();
      if (entry.is_symlink()) {
        out.push_back(path + " -> " + fs::read_symlink(entry.path()).string());
      } else if (!entry.is_directory()) {
        out.push_back(path);
      }
    }
    return out;
  }
};

TEST_F(SnapshotDownloadTest, MakesExactlyTheLayoutOfHuggingFace) {
  AddModel();
  Downloader downloader(hub_);
  const RepoListing listing = downloader.List();

  const auto result = downloader.Download(cache_);

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->snapshot_path, repo_.SnapshotPath(listing.commit));
  EXPECT_EQ(result->size_bytes, 3'333'333 + 900 + 500'000);
  EXPECT_EQ(result->fetched_bytes, result->size_bytes);
  ExpectComplete(listing);
  ASSERT_EQ(listing.files.size(), 3U);
  const std::string& config = listing.files[0].blob;
  const std::string& weights = listing.files[1].blob;
  const std::string& tokenizer = listing.files[2].blob;
  const std::string snapshot = "snapshots/" + listing.commit;
  EXPECT_THAT(Everything(), UnorderedElementsAre(
                                "blobs/" + config, "blobs/" + weights, "blobs/" + tokenizer,
                                "refs/main", "trees/" + listing.commit + ".json",
                                snapshot + "/config.json -> ../../blobs/" + config,
                                snapshot + "/model.safetensors -> ../../blobs/" + weights,
                                snapshot + "/sub/tokenizer.json -> ../../../blobs/" + tokenizer));
  EXPECT_EQ(*ReadFile(repo_.repo_path() + "/refs/main"), listing.commit);
  const absl::StatusOr<RepoListing> tree = repo_.ReadTree(listing.commit);
  ASSERT_THAT(tree, IsOk());
  EXPECT_EQ(tree->files, listing.files);
}

TEST_F(SnapshotDownloadTest, CountsWhatItDoes) {
  AddModel();
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());
  ASSERT_THAT(downloader.Download(cache_), IsOk());

  const std::string host = hub_.cdn_url().substr(7);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_bytes_total{cache="primary",model="m"})"),
            3'834'233);
  EXPECT_EQ(
      downloader.Metric(R"(modeld_download_wire_bytes_total{host=")" + host + R"(",model="m"})"),
      3'333'333);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_files_total{model="m",result="fetched"})"), 3);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_files_total{model="m",result="present"})"), 3);
  EXPECT_EQ(downloader.Metric("modeld_download_active"), 0);
  EXPECT_EQ(downloader.Metric("modeld_download_queue_length"), 0);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_remaining_bytes{model="m"})"), 0);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_bytes_per_second{model="m"})"), 0);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_duration_seconds_count{result="succeeded"})"), 2);
  EXPECT_EQ(downloader.Metric("modeld_verify_duration_seconds_count"), 3);
}

TEST_F(SnapshotDownloadTest, ASecondTimeFetchesNothing) {
  AddModel();
  Downloader downloader(hub_);
  ASSERT_THAT(downloader.Download(cache_), IsOk());
  hub_.ClearRequests();

  const auto again = downloader.Download(cache_);

  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->fetched_bytes, 0);
  EXPECT_TRUE(BodyRequests().empty());
}

TEST_F(SnapshotDownloadTest, ASecondRevisionFetchesWhatChangedAndLeavesTheFirst) {
  for (const char* revision : {"v1", "v2"}) {
    hub_.AddRevisionFile(kRepo, revision, "same.safetensors", TestBytes(1'000'000, 1));
    hub_.AddRevisionFile(kRepo, revision, "other.safetensors",
                         TestBytes(400'000, static_cast<uint32_t>(revision[1])));
  }
  hub_.ChangeRepo(kRepo, R"({"branches":{"main":"v1"}})");
  Downloader downloader(hub_);
  const RepoListing first = downloader.List();
  ASSERT_THAT(downloader.Download(cache_), IsOk());
  hub_.ChangeRepo(kRepo, R"({"branches":{"main":"v2"}})");
  hub_.ClearRequests();

  const auto result = downloader.Download(cache_);

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->fetched_bytes, 400'000);
  EXPECT_EQ(BodyBytes(), 400'000);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_reused_bytes_total{model="m",source="blob"})"),
            1'000'000);
  const RepoListing second = downloader.List();
  ASSERT_NE(first.commit, second.commit);
  EXPECT_EQ(*repo_.ReadRef("main"), second.commit);
  ExpectComplete(first);
  ExpectComplete(second);
}

// Files without the listing, in the layouts that huggingface_hub leaves: links to blobs, and plain
// files where links cannot be made.
TEST_F(SnapshotDownloadTest, WhatHuggingFaceFetchedIsNotFetchedAgain) {
  AddModel();
  Downloader downloader(hub_);
  const RepoListing listing = downloader.List();
  const std::string snapshot = repo_.SnapshotPath(listing.commit);
  ASSERT_THAT(MakeDirectories(repo_.blobs_path()), IsOk());
  ASSERT_THAT(MakeDirectories(snapshot + "/sub"), IsOk());
  const std::string weights = listing.files[1].blob;
  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(weights), TestBytes(3'333'333, 1)), IsOk());
  fs::create_symlink("../../blobs/" + weights, snapshot + "/model.safetensors");
  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(listing.files[0].blob), TestBytes(900, 2)),
              IsOk());
  ASSERT_THAT(WriteFileAtomically(snapshot + "/sub/tokenizer.json", TestBytes(500'000, 3)), IsOk());

  const auto result = downloader.Download(cache_);

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->fetched_bytes, 0);
  EXPECT_TRUE(BodyRequests().empty());
  ExpectComplete(listing);
}

TEST_F(SnapshotDownloadTest, ABlobOfTheWrongSizeIsReplaced) {
  AddModel();
  Downloader downloader(hub_);
  const RepoListing listing = downloader.List();
  ASSERT_THAT(MakeDirectories(repo_.blobs_path()), IsOk());
  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(listing.files[1].blob), "short"), IsOk());

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  ExpectComplete(listing);
}

TEST_F(SnapshotDownloadTest, OneContentUnderTwoNamesIsFetchedOnce) {
  hub_.AddFile(kRepo, "a.safetensors", TestBytes(700'000, 1));
  hub_.AddFile(kRepo, "b/c.safetensors", TestBytes(700'000, 1));
  Downloader downloader(hub_);

  const auto result = downloader.Download(cache_);

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->size_bytes, 700'000);
  EXPECT_EQ(BodyBytes(), 700'000);
  ExpectComplete(downloader.List());
}

TEST_F(SnapshotDownloadTest, EmptyFilesNeedNoRequest) {
  hub_.AddFile(kRepo, "__init__.py", "");
  hub_.AddFile(kRepo, "empty.safetensors", "");
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  EXPECT_TRUE(BodyRequests().empty());
  ExpectComplete(downloader.List());
}

// The public hub answers small files by a redirect on its own origin, whose query counts.
TEST_F(SnapshotDownloadTest, SmallFilesAreFollowedOnTheHub) {
  AddModel();
  hub_.Set(R"({"resolve_cache":true})");
  hub_.ChangeRepo(kRepo, R"({"gated":"auto"})");
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  ExpectComplete(downloader.List());
}

TEST_F(SnapshotDownloadTest, TheTokenGoesToTheHubAlone) {
  AddModel();
  hub_.ChangeRepo(kRepo, R"({"private":true})");
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  for (const FakeHubRequest& request : hub_.Requests()) {
    EXPECT_EQ(request.had_token, request.port == "hub") << request.path;
  }
}

// A small file that the hub sends elsewhere is fetched there, without the token.
TEST_F(SnapshotDownloadTest, TheTokenDoesNotFollowARedirect) {
  AddModel();
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  hub_.AddFault(
      R"({"kind":"redirect","on":"resolve","path":"*config.json","times":1,"location":")" +
      hub_.cdn_url() + R"(/stolen"})");
  hub_.ClearRequests();

  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());

  bool redirected = false;
  for (const FakeHubRequest& seen : hub_.Requests()) {
    redirected |= seen.path == "/stolen";
    EXPECT_FALSE(seen.port == "cdn" && seen.had_token) << seen.path;
  }
  EXPECT_TRUE(redirected);
}

TEST_F(SnapshotDownloadTest, PartOfTheFilesComesWithoutAListing) {
  AddModel();
  Downloader downloader(hub_);
  SnapshotRequest request = downloader.Request(cache_);
  request.filter.allow_patterns = {"*.json"};

  const auto result = DownloadSnapshot(request, downloader.pool, {}, {}, {});

  ASSERT_THAT(result, IsOk());
  EXPECT_EQ(result->size_bytes, 500'900);
  EXPECT_FALSE(fs::exists(result->snapshot_path + "/model.safetensors"));
  EXPECT_FALSE(fs::exists(repo_.repo_path() + "/trees"));
  EXPECT_EQ(*repo_.ReadRef("main"), request.listing.commit);
}

TEST_F(SnapshotDownloadTest, RefsMoveOnlyWhenItIsConfirmed) {
  AddModel();
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  bool linked = false;
  const Confirm lost_lease = [&] {
    linked = fs::exists(repo_.SnapshotPath(request.listing.commit) + "/model.safetensors");
    return absl::AbortedError("lost the lease");
  };

  EXPECT_THAT(DownloadSnapshot(request, downloader.pool, {}, lost_lease, {}),
              StatusIs(absl::StatusCode::kAborted));

  EXPECT_TRUE(linked);
  EXPECT_FALSE(fs::exists(repo_.repo_path() + "/refs/main"));
}

TEST_F(SnapshotDownloadTest, ACommitNeedsNoRef) {
  AddModel();
  Downloader downloader(hub_);
  const std::string commit = downloader.List().commit;

  ASSERT_THAT(downloader.Download(cache_, commit), IsOk());

  EXPECT_TRUE(fs::is_empty(repo_.repo_path() + "/refs"));
}

TEST_F(SnapshotDownloadTest, ProgressNeverGoesBackAndEndsWhole) {
  AddModel();
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":8000000})");
  hub_.AddFault(R"({"kind":"corrupt","on":"cdn","offset":99,"times":1})");
  Downloader downloader(hub_);
  std::vector<OperationProgress> told;

  ASSERT_THAT(DownloadSnapshot(downloader.Request(cache_), downloader.pool,
                               [&](const OperationProgress& p) { told.push_back(p); }, {}, {}),
              IsOk());

  ASSERT_FALSE(told.empty());
  for (size_t i = 1; i < told.size(); ++i) {
    EXPECT_GE(told[i].bytes_done, told[i - 1].bytes_done);
    EXPECT_LE(told[i].bytes_done, told[i].bytes_total);
  }
  EXPECT_EQ(told.back().bytes_done, 3'834'233);
  EXPECT_EQ(told.back().bytes_total, 3'834'233);
  EXPECT_EQ(told.back().files_done, 3);
  EXPECT_EQ(told.back().files_total, 3);
  for (const FileProgress& file : told.back().files) {
    EXPECT_EQ(file.state, FileState::kDone) << file.path;
    EXPECT_EQ(file.bytes_done, file.size_bytes) << file.path;
  }
}

TEST_F(SnapshotDownloadTest, PresentFilesCountFromTheStart) {
  AddModel();
  Downloader downloader(hub_);
  SnapshotRequest request = downloader.Request(cache_);
  request.filter.allow_patterns = {"*.json"};
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());
  request.filter = {};
  std::vector<OperationProgress> told;

  ASSERT_THAT(DownloadSnapshot(request, downloader.pool,
                               [&](const OperationProgress& p) { told.push_back(p); }, {}, {}),
              IsOk());

  EXPECT_GE(told.front().bytes_done, 900);
  EXPECT_EQ(told.front().files[0].state, FileState::kPresent);
  EXPECT_EQ(told.back().files[1].state, FileState::kDone);
}

TEST_F(SnapshotDownloadTest, TheFirstFailureStopsTheRestAndKeepsWhatCame) {
  AddModel();
  hub_.AddFault(R"({"kind":"stall","on":"cdn","bytes":-1})");
  hub_.AddFault(R"({"kind":"status","on":"resolve","path":"*tokenizer.json","status":404,
                    "headers":{"X-Error-Code":"EntryNotFound"}})");
  DownloadPool::Options options = QuickOptions();
  options.stall_timeout = options.give_up_after = std::chrono::minutes(10);
  Downloader downloader(hub_, options);
  const RepoListing listing = downloader.List();

  const auto result = downloader.Download(cache_);

  EXPECT_THAT(result, HasReasonOf(Reason::kHubEntryNotFound));
  hub_.ClearFaults();
  EXPECT_THAT(downloader.Download(cache_), IsOk());
  ExpectComplete(listing);
}

struct HostileFile {
  const char* name;
  const char* path;
  const char* blob;
};

class HostileListingTest : public DownloadTest, public testing::WithParamInterface<HostileFile> {};

TEST_P(HostileListingTest, WritesNothingAnywhere) {
  AddModel();
  Downloader downloader(hub_);
  SnapshotRequest request = downloader.Request(cache_);
  RepoFile file = request.listing.files[0];
  file.path = GetParam().path;
  if (GetParam().blob != nullptr) file.blob = GetParam().blob;
  request.listing.files.push_back(file);

  EXPECT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}),
              HasReasonOf(Reason::kInvalidRepository));

  EXPECT_TRUE(fs::is_empty(dir_.path()));
}

INSTANTIATE_TEST_SUITE_P(All, HostileListingTest,
                         testing::Values(HostileFile{"ParentFolder", "../../../../evil", nullptr},
                                         HostileFile{"ParentInTheMiddle", "a/../../evil", nullptr},
                                         HostileFile{"Absolute", "/tmp/modeld-evil", nullptr},
                                         HostileFile{"Backslash", "..\\evil", nullptr},
                                         HostileFile{"EmptyName", "", nullptr},
                                         HostileFile{"BlobWithAPath", "x", "../../../../evil"},
                                         HostileFile{"BlobOfNothing", "x", ""},
                                         HostileFile{"BlobInUpperCase", "x",
                                                     "DA39A3EE5E6B4B0D3255BFEF95601890AFD80709"}),
                         [](const auto& info) { return info.param.name; });

TEST_F(SnapshotDownloadTest, AFileThatIsAlsoAFolderIsRefused) {
  AddModel();
  Downloader downloader(hub_);
  SnapshotRequest request = downloader.Request(cache_);
  RepoFile below = request.listing.files[0];
  below.path = "model.safetensors/x";
  request.listing.files.push_back(below);

  EXPECT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}),
              HasReasonOf(Reason::kInvalidRepository));
}

TEST_F(SnapshotDownloadTest, NothingIsWrittenOutsideTheCache) {
  AddModel();
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  std::vector<std::string> top;
  for (const auto& entry : fs::directory_iterator(dir_.path())) {
    top.push_back(entry.path().filename());
  }
  EXPECT_THAT(top, ElementsAre("cache"));
  std::vector<std::string> hub;
  for (const auto& entry : fs::directory_iterator(cache_ + "/hub")) {
    hub.push_back(entry.path().filename());
  }
  EXPECT_THAT(hub, UnorderedElementsAre(".locks", "CACHEDIR.TAG", "models--acme--model"));
}

}  // namespace
}  // namespace modeld
