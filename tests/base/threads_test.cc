#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <set>
#include <stop_token>
#include <thread>
#include <vector>

#include "server/base/clock.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/base/queue.h"
#include "server/base/random.h"
#include "server/base/thread_pool.h"

namespace modeld {
namespace {

TEST(BoundedQueueTest, FullAndClosedQueuesRefuseAndWhatIsInComesOut) {
  BoundedQueue<int> queue(2);
  int value = 1;
  EXPECT_TRUE(queue.TryPush(value));
  value = 2;
  EXPECT_TRUE(queue.TryPush(value));
  value = 3;
  EXPECT_FALSE(queue.TryPush(value));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(value));

  EXPECT_EQ(queue.Pop(), 1);
  EXPECT_EQ(queue.Pop(), 2);
  EXPECT_EQ(queue.Pop(), std::nullopt);
}

TEST(BoundedQueueTest, WaitingReaderWakesWhenTheQueueCloses) {
  BoundedQueue<int> queue(1);
  std::jthread reader([&] { EXPECT_EQ(queue.Pop(), std::nullopt); });
  queue.Close();
}

TEST(ExecutorTest, RunsAllThatItAcceptedBeforeItEnds) {
  std::atomic<int> ran = 0;
  {
    Executor executor({.threads = 3});
    for (int i = 0; i < 1000; ++i) EXPECT_TRUE(executor.Run([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 1000);
}

TEST(ExecutorTest, RefusesMoreThanItsLimit) {
  std::latch release(1);
  std::latch started(1);
  Executor executor({.threads = 1, .waiting_max = 1});
  ASSERT_TRUE(executor.Run([&] {
    started.count_down();
    release.wait();
  }));
  started.wait();
  EXPECT_TRUE(executor.Run([] {}));

  EXPECT_FALSE(executor.Run([] { ADD_FAILURE() << "a refused closure ran"; }));

  release.count_down();
}

TEST(ThreadPoolTest, EveryIndexIsVisitedOnceWhateverTheSizes) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 7, 1000}) {
      for (const int64_t grain : {1, 3, 100}) {
        std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
        pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        for (const auto& count : seen) EXPECT_EQ(count, 1);
      }
    }
  }
}

TEST(ClockTest, StoppedSleepEndsAtOnceAndSaysSo) {
  std::stop_source stop;
  stop.request_stop();
  EXPECT_FALSE(Clock::Real().Sleep(std::chrono::hours(1), stop.get_token()));
  EXPECT_TRUE(Clock::Real().Sleep(std::chrono::nanoseconds(1), {}));
}

TEST(RandomTest, IdentifiersHaveTheirFormAndDiffer) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = RandomUuid();
    ASSERT_EQ(uuid.size(), 36U);
    EXPECT_EQ(uuid[14], '4');
    EXPECT_EQ(uuid[8], '-');
    EXPECT_TRUE(seen.insert(uuid).second);
    EXPECT_GE(RandomUnit(), 0.0);
    EXPECT_LT(RandomUnit(), 1.0);
  }
  EXPECT_EQ(RandomHex(4).size(), 8U);
}

}  // namespace
}  // namespace modeld
