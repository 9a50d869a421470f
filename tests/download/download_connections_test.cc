// How connections are shared out: many for one file, the slow ones asked again, the urgent first.
#include <gtest/gtest.h>

#include <chrono>
#include <latch>
#include <string>
#include <thread>
#include <utility>

#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class DownloadConnectionsTest : public DownloadTest {
 protected:
  static DownloadPool::Options Connections(int connections) {
    DownloadPool::Options options = QuickOptions();
    options.workers = connections;
    options.stall_timeout = seconds(20);
    return options;
  }
  // Received is what was written and what was thrown away.
  static void ExpectThatCountsAddUp(const Downloader& downloader) {
    double wire = 0;
    for (const auto& family : downloader.metrics.registry->Collect()) {
      if (family.name != "modeld_download_wire_bytes_total") continue;
      for (const auto& series : family.metric) wire += series.counter.value;
    }
    const double written =
        downloader.Metric(R"(modeld_download_bytes_total{cache="primary",model="m"})");
    const double discarded =
        downloader.Metric(R"(modeld_download_discarded_bytes_total{model="m",reason="refetched"})");
    EXPECT_EQ(wire, written + discarded);
  }
};

// Each connection is slow, so one file gets more and more of them, and no byte is fetched twice but
// what is under way when a connection takes over part of another's.
TEST_F(DownloadConnectionsTest, OneFileGetsManyConnectionsWhereTheyHelp) {
  constexpr int64_t kBytes = 32'000'000;
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(kBytes, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":4000000})");
  Downloader downloader(hub_, Connections(8));
  const SnapshotRequest request = downloader.Request(cache_);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());
  const auto took = Clock::Real().Steady() - begin;

  EXPECT_LT(took, milliseconds(6500));  // 8 s over one connection
  EXPECT_GE(BodyBytes(), kBytes);
  EXPECT_LE(BodyBytes(), kBytes * 1.05);
  EXPECT_GE(BodyRequests().size(), 4U);
  ExpectComplete(request.listing);
  ExpectThatCountsAddUp(downloader);
}

TEST_F(DownloadConnectionsTest, AFileOfOneSegmentIsOnePlainRequest) {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(3'900'000, 1));
  Downloader downloader(hub_, Connections(8));

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  ASSERT_EQ(BodyRequests().size(), 1U);
  EXPECT_EQ(BodyRequests()[0].range, "");
}

// Nothing is left to give out but what one slow connection is at.
TEST_F(DownloadConnectionsTest, AnIdleConnectionTakesOverPartOfALongSegment) {
  constexpr int64_t kBytes = 8'000'000;
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(kBytes, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":1000000,"times":1})");
  Downloader downloader(hub_, Connections(2));
  const SnapshotRequest request = downloader.Request(cache_);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());

  EXPECT_LT(Clock::Real().Steady() - begin, milliseconds(3000));  // its half alone: 4 s
  EXPECT_GE(BodyRequests().size(), 3U);
  ExpectComplete(request.listing);
  ExpectThatCountsAddUp(downloader);
}

// The first connection brings almost nothing; the others end their part, and then its part too.
TEST_F(DownloadConnectionsTest, ACrawlingSegmentIsAskedForAgain) {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(16'000'000, 1));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":40000,"times":1})");
  Downloader downloader(hub_, Connections(3));
  const SnapshotRequest request = downloader.Request(cache_);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());

  EXPECT_LT(Clock::Real().Steady() - begin, seconds(20));  // it alone: 200 s
  EXPECT_LE(BodyBytes(), 16'000'000 * 1.1);
  ExpectComplete(request.listing);
  ExpectThatCountsAddUp(downloader);
}

// What a server sends of bytes that are there already is counted apart.
TEST_F(DownloadConnectionsTest, WhatIsReceivedIsWrittenOrCountedAsDiscarded) {
  AddModel();
  hub_.AddFault(R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})");
  hub_.AddFault(R"({"kind":"ignore_range","on":"cdn"})");
  Downloader downloader(hub_);

  ASSERT_THAT(downloader.Download(cache_), IsOk());

  EXPECT_GT(
      downloader.Metric(R"(modeld_download_discarded_bytes_total{model="m",reason="refetched"})"),
      0);
  ExpectThatCountsAddUp(downloader);
}

// The one connection is at a file that takes ten seconds more when something urgent comes.
TEST_F(DownloadConnectionsTest, AnUrgentFileTakesTheConnectionOfAnother) {
  constexpr int64_t kBytes = 20'000'000;
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(kBytes, 1));
  hub_.AddFile("acme/urgent", "model.safetensors", TestBytes(2'000'000, 2));
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":2000000,"times":1})");
  Downloader downloader(hub_, Connections(1));
  const SnapshotRequest background = downloader.Request(cache_);
  SnapshotRequest urgent = background;
  urgent.repo_id = "acme/urgent";
  urgent.model_name = "urgent";
  urgent.priority = 10;
  const auto commit = downloader.client.ResolveRevision({.id = "acme/urgent"}, "main", {}, {});
  ASSERT_THAT(commit, IsOk());
  const auto listing = downloader.client.ListFiles({.id = "acme/urgent"}, *commit, {}, {});
  ASSERT_THAT(listing, IsOk());
  urgent.listing = *listing;
  std::latch begun(1);
  const OnProgress on_progress = [&, first = true](const OperationProgress& now) mutable {
    if (now.bytes_done > 0 && std::exchange(first, false)) begun.count_down();
  };
  absl::StatusOr<SnapshotResult> slow = absl::UnknownError("not run");
  std::jthread thread(
      [&] { slow = DownloadSnapshot(background, downloader.pool, on_progress, {}, {}); });
  begun.wait();

  const auto begin = Clock::Real().Steady();
  const auto result = DownloadSnapshot(urgent, downloader.pool, {}, {}, {});
  const auto took = Clock::Real().Steady() - begin;
  thread.join();

  EXPECT_THAT(result, IsOk());
  EXPECT_LT(took, milliseconds(3000));
  EXPECT_THAT(slow, IsOk());
  ExpectComplete(background.listing);
  // What had come of the other was kept.
  EXPECT_LE(slow->fetched_bytes, kBytes);
}

// A file whose lock another process holds waits, and the one connection serves the others.
TEST_F(DownloadConnectionsTest, WaitingForALockOccupiesNoConnection) {
  AddModel();
  Downloader downloader(hub_, Connections(1));
  const RepoListing listing = downloader.List();
  ASSERT_THAT(PrepareCache(cache_), IsOk());
  ASSERT_THAT(repo_.Prepare(listing.commit), IsOk());
  const RepoFile& locked = listing.files[1];
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(locked.blob));
  ASSERT_THAT(lock, IsOk());
  std::latch waits(1);
  std::latch others_settled(2);
  std::latch settled(1);
  const auto submit = [&](const RepoFile& file, std::latch& done) {
    FileDownload job{.model_name = "m",
                     .cache_name = "primary",
                     .cache_path = cache_,
                     .repo_id = std::string(kRepo),
                     .commit = listing.commit,
                     .file = file};
    if (file == locked) {
      job.on_progress = [&, first = true](int64_t, FileState) mutable {
        if (std::exchange(first, false)) waits.count_down();
      };
    }
    const auto on_done = [&done](const absl::StatusOr<FileResult>& result) {
      EXPECT_THAT(result, IsOk());
      done.count_down();
    };
    ASSERT_THAT(downloader.pool.Submit(std::move(job), on_done), IsOk());
  };

  submit(locked, settled);
  waits.wait();
  submit(listing.files[0], others_settled);
  submit(listing.files[2], others_settled);
  others_settled.wait();
  EXPECT_FALSE(settled.try_wait());
  lock = absl::CancelledError("released");
  settled.wait();

  EXPECT_TRUE(repo_.HasBlob(locked));
}

}  // namespace
}  // namespace modeld
