#include "server/download/download_pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
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
  // The one worker is held in its first file until the others wait.
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
  EXPECT_THAT(order, ElementsAre("blocker.bin", "high.bin", "low.bin", "low2.bin"));
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

// Real time, but for the first sleep: then the download waits for the lock, and says so.
class LockWatchingClock final : public Clock {
 public:
  std::chrono::system_clock::time_point Now() override { return Clock::Real().Now(); }
  std::chrono::steady_clock::time_point Steady() override { return Clock::Real().Steady(); }
  bool Sleep(std::chrono::nanoseconds duration, std::stop_token stop) override {
    if (!slept_.exchange(true)) first_sleep.count_down();
    return Clock::Real().Sleep(duration, std::move(stop));
  }
  std::latch first_sleep{1};

 private:
  std::atomic<bool> slept_{false};
};

TEST_F(DownloadPoolTest, ABlobThatAnotherProcessBringsIsNotFetched) {
  AddModel();
  LockWatchingClock clock;
  Downloader downloader(hub_, QuickOptions(), clock);
  const RepoListing listing = downloader.List();
  FileDownload job = Job(listing, "model.safetensors");
  const RepoFile file = job.file;
  ASSERT_THAT(PrepareCache(cache_), IsOk());
  ASSERT_THAT(repo_.Prepare(listing.commit), IsOk());
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(file.blob));
  ASSERT_THAT(lock, IsOk());
  std::latch settled(1);
  absl::StatusOr<FileResult> outcome = absl::UnknownError("not called");
  ASSERT_THAT(downloader.pool.Submit(std::move(job),
                                     [&](const absl::StatusOr<FileResult>& result) {
                                       outcome = result;
                                       settled.count_down();
                                     }),
              IsOk());
  clock.first_sleep.wait();

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
