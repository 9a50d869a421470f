// What was fetched is not fetched again: after a cancel, after kill -9, after a full disk.
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <string>
#include <system_error>
#include <thread>

#include "server/cache/tree_size.h"
#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

class DownloadResumeTest : public DownloadTest {};

TEST_F(DownloadResumeTest, ACancelIsQuickAndKeepsWhatCame) {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(12'000'000, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":8000000})");
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  std::stop_source stop;
  std::chrono::steady_clock::time_point stopped_at;
  const OnProgress stop_in_the_middle = [&](const OperationProgress& progress) {
    if (progress.bytes_done < 3'000'000 || stop.stop_requested()) return;
    stopped_at = Clock::Real().Steady();
    stop.request_stop();
  };

  const auto cancelled =
      DownloadSnapshot(request, downloader.pool, stop_in_the_middle, {}, stop.get_token());
  const auto took = Clock::Real().Steady() - stopped_at;

  EXPECT_THAT(cancelled, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_LT(took, milliseconds(1000));  // the rest of the file would take longer
  const int64_t missing = repo_.MissingBytes(request.listing.commit, request.listing.files);
  EXPECT_LE(missing, 9'000'000);
  hub_.ClearFaults();
  hub_.ClearRequests();
  ASSERT_THAT(downloader.Download(cache_), IsOk());
  EXPECT_EQ(BodyBytes(), missing);
  EXPECT_EQ(downloader.Metric(R"(modeld_download_reused_bytes_total{model="m",source="resume"})"),
            12'000'000 - missing);
  ExpectComplete(request.listing);
}

class DownloadKillTest : public DownloadTest, public testing::WithParamInterface<int> {};

// Ten processes, each killed at a random moment of its download; then one that ends it.
TEST_P(DownloadKillTest, KilledAtRandomPointsItFetchesAlmostNothingTwice) {
  constexpr int64_t kBytes = 40'000'000;
  const int64_t lost_max = GetParam() * (int64_t{4} << 20);  // one piece per connection
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(kBytes, 1));
  hub_.AddFile(kRepo, "config.json", TestBytes(900, 2));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":12000000})");
  DownloadPool::Options options = QuickOptions();
  options.workers = GetParam();
  const RepoListing listing = Downloader(hub_).List();
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);

  int64_t missing = kBytes + 900;
  for (int round = 0; round < 10; ++round) {
    hub_.ClearRequests();
    const milliseconds life(std::uniform_int_distribution<int>(100, 350)(random));
    const int status = RunInChild([&]() -> int {
      Downloader downloader(hub_, options);
      std::jthread killer([life](std::stop_token stop) {
        Clock::Real().Sleep(life, std::move(stop));
        kill(getpid(), SIGKILL);
      });
      downloader.Download(cache_).IgnoreError();
      return 0;
    });
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
    EXPECT_LE(AllocatedBytes(repo_.blobs_path()), kBytes * 102 / 100);
    const int64_t still_missing = repo_.MissingBytes(listing.commit, listing.files);
    EXPECT_LE(BodyBytes() - (missing - still_missing), lost_max) << "round " << round;
    missing = still_missing;
  }
  EXPECT_LT(missing, kBytes * 9 / 10) << "no round came far enough to test anything";
  hub_.ClearFaults();
  hub_.ClearRequests();
  Downloader downloader(hub_, options);
  ASSERT_THAT(downloader.Download(cache_), IsOk());

  EXPECT_EQ(BodyBytes(), missing);
  ExpectComplete(listing);
  EXPECT_LE(AllocatedBytes(repo_.blobs_path()), kBytes * 102 / 100);
}

INSTANTIATE_TEST_SUITE_P(Connections, DownloadKillTest, testing::Values(1, 4));

// Other programs' commands clean caches without asking who works in them.
TEST_F(DownloadResumeTest, ARepositoryRemovedMeanwhileIsFetchedAnew) {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(8'000'000, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":8000000})");
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  bool removed = false;
  const OnProgress remove_in_the_middle = [&](const OperationProgress& progress) {
    if (removed || progress.bytes_done < 2'000'000) return;
    removed = true;
    std::error_code ignored;
    std::filesystem::remove_all(repo_.repo_path(), ignored);
  };

  const auto result = DownloadSnapshot(request, downloader.pool, remove_in_the_middle, {}, {});

  EXPECT_THAT(result, IsOk());
  EXPECT_TRUE(removed);
  ExpectComplete(request.listing);
}

// What was finished already when they came must be there in the end too.
TEST_F(DownloadResumeTest, BlobsRemovedAfterTheyWereDoneAreFetchedAnew) {
  hub_.AddFile(kRepo, "config.json", "{}");
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(4'000'000, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":4000000})");
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  int removals = 0;
  const OnProgress remove_often = [&](const OperationProgress& progress) {
    if (removals == 5 || progress.files_done == 0) return;
    ++removals;
    std::error_code ignored;
    std::filesystem::remove_all(repo_.repo_path(), ignored);
  };

  const auto result = DownloadSnapshot(request, downloader.pool, remove_often, {}, {});

  EXPECT_THAT(result, IsOk());
  EXPECT_GT(removals, 0);
  ExpectComplete(request.listing);
}

// In a mount namespace of its own, with a cache on a small tmpfs: 0 when all is as it should be.
int DownloadToFullDisk(FakeHub& hub, const std::string& cache) {
  const auto failed = [](const char* what) {
    std::fprintf(stderr, "full disk: %s\n", what);
    return 1;
  };
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return failed("no mount namespace");
  }
  if (mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("tmpfs", cache.c_str(), "tmpfs", 0, "size=6m") != 0) {
    return failed("no tmpfs");
  }
  Downloader downloader(hub);
  const RepoCache repo(cache, std::string(kRepo));
  const RepoListing listing = downloader.List();
  const absl::Status status = downloader.Download(cache).status();
  if (!HasReason(status, Reason::kInsufficientDisk)) return failed(status.ToString().c_str());
  const ErrorDetails details = DetailsOf(status);
  if (details.metadata.at("required_bytes") != "8000000") return failed("required_bytes");
  if (details.metadata.at("free_bytes").empty()) return failed("free_bytes");

  if (mount("tmpfs", cache.c_str(), "tmpfs", MS_REMOUNT, "size=64m") != 0) return failed("remount");
  const int64_t missing = repo.MissingBytes(listing.commit, listing.files);
  hub.ClearRequests();
  const absl::Status finished = downloader.Download(cache).status();
  if (!finished.ok()) return failed(finished.ToString().c_str());
  int64_t sent = 0;
  for (const FakeHubRequest& request : hub.Requests()) {
    if (request.method == "GET" && request.on != "api") sent += request.bytes;
  }
  if (sent != missing) return failed("bytes were fetched twice");
  if (!LeftoversIn(repo).empty()) return failed("leftovers");
  return 0;
}

TEST_F(DownloadResumeTest, AFullDiskIsSaidWithBothFiguresAndLosesNothing) {
  hub_.AddFile(kRepo, "big.safetensors", TestBytes(8'000'000, 1));
  hub_.AddFile(kRepo, "small.safetensors", TestBytes(3'000'000, 2));
  std::filesystem::create_directories(cache_);

  const int status = RunInChild([&] { return DownloadToFullDisk(hub_, cache_); });

  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

}  // namespace
}  // namespace modeld
