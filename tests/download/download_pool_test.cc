#include "server/download/download_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <latch>
#include <string>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;

class DownloadPoolTest : public DownloadTest {
 protected:
  FileDownload Job(const RepoListing& listing, std::string_view path) {
    FileDownload job;
    job.model_name = "m";
    job.cache_name = "primary";
    job.cache_path = cache_;
    job.repo_id = kRepo;
    job.commit = listing.commit;
    for (const RepoFile& file : listing.files) {
      if (file.path == path) job.file = file;
    }
    return job;
  }
};

// A pool without workers never starts a file, so the queue stays as full as the test made it.
TEST_F(DownloadPoolTest, RefusedFileIsNeverCalledBack) {
  DownloadPool::Options options = QuickOptions();
  options.workers = 0;
  options.files_max = 1;
  int accepted = 0;
  int refused = 0;
  {
    Downloader downloader(hub_, options);
    ASSERT_THAT(downloader.pool.Submit({}, [&](const auto&) { ++accepted; }), IsOk());

    const absl::Status status = downloader.pool.Submit({}, [&](const auto&) { ++refused; });

    EXPECT_THAT(status, HasReasonOf(Reason::kQueueFull));
    EXPECT_EQ(downloader.Metric("modeld_download_queue_length"), 1);
  }  // the destructor settles every accepted file; the refused one is not among them
  EXPECT_EQ(accepted, 1);
  EXPECT_EQ(refused, 0);
}

TEST_F(DownloadPoolTest, HigherPriorityFirstThenAge) {
  for (const char* path : {"blocker.bin", "low.bin", "low2.bin", "high.bin"}) {
    hub_.AddFile(kRepo, path, TestBytes(200'000, static_cast<uint32_t>(path[0] + path[3])));
  }
  DownloadPool::Options options = QuickOptions();
  options.workers = 1;
  Downloader downloader(hub_, options);
  const RepoListing listing = downloader.List();
  std::latch started(1);
  std::latch submitted(1);
  std::latch settled(4);
  Mutex mutex;
  std::vector<std::string> order;
  const auto submit = [&](FileDownload job) {
    const std::string path = job.file.path;
    ASSERT_THAT(downloader.pool.Submit(std::move(job),
                                       [&, path](const absl::StatusOr<FileResult>& result) {
                                         EXPECT_THAT(result, IsOk());
                                         {
                                           MutexLock lock(mutex);
                                           order.push_back(path);
                                         }
                                         settled.count_down();
                                       }),
                IsOk());
  };
  // The one worker is held at the beginning of its first file until the others wait. What came
  // later and is more urgent goes before that one too.
  FileDownload blocker = Job(listing, "blocker.bin");
  blocker.on_progress = [&, first = true](int64_t, FileState) mutable {
    if (!std::exchange(first, false)) return;
    started.count_down();
    submitted.wait();
  };
  submit(std::move(blocker));
  started.wait();
  submit(Job(listing, "low.bin"));
  submit(Job(listing, "low2.bin"));
  FileDownload high = Job(listing, "high.bin");
  high.priority = 5;
  submit(std::move(high));
  submitted.count_down();
  settled.wait();

  MutexLock lock(mutex);
  EXPECT_THAT(order, ElementsAre("high.bin", "blocker.bin", "low.bin", "low2.bin"));
}

TEST_F(DownloadPoolTest, AWaitingFileThatIsStoppedIsSettledWhileWorkersAreBusy) {
  DownloadPool::Options options = QuickOptions();
  options.workers = 0;  // busier than any
  Downloader downloader(hub_, options);
  std::stop_source stop;
  FileDownload job;
  job.stop = stop.get_token();
  std::latch settled(1);
  absl::Status outcome;
  ASSERT_THAT(downloader.pool.Submit(std::move(job),
                                     [&](const absl::StatusOr<FileResult>& result) {
                                       outcome = result.status();
                                       settled.count_down();
                                     }),
              IsOk());

  stop.request_stop();
  settled.wait();

  EXPECT_THAT(outcome, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_EQ(downloader.Metric("modeld_download_queue_length"), 0);
}

TEST_F(DownloadPoolTest, TheEndOfThePoolStopsWhatRuns) {
  AddModel();
  hub_.AddFault(R"({"kind":"stall","on":"cdn","bytes":-1})");
  std::latch started(1);
  absl::Status outcome;
  {
    DownloadPool::Options options = QuickOptions();
    options.stall_timeout = options.give_up_after = std::chrono::minutes(10);
    Downloader downloader(hub_, options);
    FileDownload job = Job(downloader.List(), "model.safetensors");
    job.on_progress = [&, first = true](int64_t, FileState) mutable {
      if (std::exchange(first, false)) started.count_down();
    };
    ASSERT_THAT(downloader.pool.Submit(
                    std::move(job),
                    [&](const absl::StatusOr<FileResult>& result) { outcome = result.status(); }),
                IsOk());
    started.wait();
  }
  EXPECT_THAT(outcome, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(DownloadPoolTest, ALimitHoldsForAllFilesTogetherAndCanBeLifted) {
  for (int i = 0; i < 4; ++i) {
    hub_.AddFile(kRepo, "shard-" + std::to_string(i) + ".safetensors", TestBytes(1'000'000, i));
  }
  Downloader downloader(hub_);
  downloader.pool.SetLimits({.bytes_per_second = 4'000'000});
  const SnapshotRequest request = downloader.Request(cache_);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());
  const auto limited = Clock::Real().Steady() - begin;

  EXPECT_GE(limited, std::chrono::milliseconds(880));
  ExpectComplete(request.listing);
}

TEST_F(DownloadPoolTest, ADownloadHasALimitOfItsOwn) {
  hub_.AddFile(kRepo, "model.safetensors", TestBytes(1'500'000, 1));
  Downloader downloader(hub_);
  SnapshotRequest request = downloader.Request(cache_);
  request.limit = std::make_shared<RateLimit>();
  request.limit->Set(2'500'000);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());

  EXPECT_GE(Clock::Real().Steady() - begin, std::chrono::milliseconds(490));
}

// Each file waits for a slot of its host, and all get one.
TEST_F(DownloadPoolTest, AHostHasNoMoreConnectionsThanItMay) {
  for (int i = 0; i < 6; ++i) {
    hub_.AddFile(kRepo, "shard-" + std::to_string(i) + ".safetensors", TestBytes(300'000, i));
  }
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":1500000})");
  Downloader downloader(hub_);
  downloader.pool.SetLimits({.connections_per_host = 1});
  const SnapshotRequest request = downloader.Request(cache_);

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());

  // One after the other: six times 0.2 s; with three at once it would be a third of that.
  EXPECT_GE(Clock::Real().Steady() - begin, std::chrono::milliseconds(900));
  ExpectComplete(request.listing);
}

TEST_F(DownloadPoolTest, ABlobThatAnotherProcessBringsIsNotFetched) {
  AddModel();
  Downloader downloader(hub_);
  const RepoListing listing = downloader.List();
  FileDownload job = Job(listing, "model.safetensors");
  const RepoFile file = job.file;
  ASSERT_THAT(PrepareCache(cache_), IsOk());
  ASSERT_THAT(repo_.Prepare(listing.commit), IsOk());
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(file.blob));
  ASSERT_THAT(lock, IsOk());
  std::latch waits(1);
  job.on_progress = [&, first = true](int64_t, FileState state) mutable {
    EXPECT_EQ(state, FileState::kPending);
    if (std::exchange(first, false)) waits.count_down();
  };
  std::latch settled(1);
  absl::StatusOr<FileResult> outcome = absl::UnknownError("not called");
  ASSERT_THAT(downloader.pool.Submit(std::move(job),
                                     [&](const absl::StatusOr<FileResult>& result) {
                                       outcome = result;
                                       settled.count_down();
                                     }),
              IsOk());
  waits.wait();

  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(file.blob), TestBytes(3'333'333, 1)), IsOk());
  lock = absl::CancelledError("released");
  settled.wait();

  ASSERT_THAT(outcome, IsOk());
  EXPECT_TRUE(outcome->present);
  EXPECT_TRUE(BodyRequests().empty());
}

// A lock of a dead process on a network filesystem may never be released.
TEST_F(DownloadPoolTest, ALockThatIsNeverReleasedIsDoneWithout) {
  AddModel();
  DownloadPool::Options options = QuickOptions();
  options.lock_wait_max = std::chrono::milliseconds(120);
  Downloader downloader(hub_, options);
  const RepoListing listing = downloader.List();
  ASSERT_THAT(PrepareCache(cache_), IsOk());
  ASSERT_THAT(repo_.Prepare(listing.commit), IsOk());
  std::vector<FileLock> held;
  for (const RepoFile& file : listing.files) {
    absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(file.blob));
    ASSERT_THAT(lock, IsOk());
    held.push_back(*std::move(lock));
  }

  EXPECT_THAT(downloader.Download(cache_), IsOk());

  ExpectComplete(listing);
}

}  // namespace
}  // namespace modeld
