#include "server/download/connection_target.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr double kMB = 1e6;

// A network whose rate depends on the number of connections, and time that passes in ticks.
class Network {
 public:
  explicit Network(std::function<double(int)> rate) : rate_(std::move(rate)) {}

  int Run(ConnectionTarget& target, milliseconds time) {
    for (milliseconds passed(0); passed < time; passed += kTick) {
      bytes_ += rate_(busy_) * std::chrono::duration<double>(kTick).count();
      now_ += kTick;
      sample_.bytes = static_cast<int64_t>(bytes_);
      sample_.busy = busy_;
      sample_.cpu_seconds +=
          cpu_share_ * std::chrono::duration<double>(kTick).count() * kProcessors;
      busy_ = target.Tick(now_, sample_);
      most_ = std::max(most_, busy_);
    }
    return busy_;
  }
  void Idle(ConnectionTarget& target) {
    now_ += kTick;
    sample_.busy = 0;
    busy_ = target.Tick(now_, sample_);
  }

  static constexpr milliseconds kTick{20};
  ConnectionTarget::Time now_{seconds(1000)};
  static constexpr int kProcessors = 2;
  ConnectionTarget::Sample sample_{.processors = kProcessors, .base = 4, .max = 32, .hungry = true};
  double cpu_share_ = 0;  // of all processors
  int busy_ = 1;
  int most_ = 0;

 private:
  std::function<double(int)> rate_;
  double bytes_ = 0;
};

// Each connection is held to 50 MB/s: more of them are faster, as long as there may be more.
TEST(ConnectionTargetTest, ClimbsToTheMostWithinASecond) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });

  EXPECT_EQ(network.Run(target, seconds(1)), 32);
}

// The processor is the limit: one connection for each file is all that helps.
TEST(ConnectionTargetTest, StaysAtOnePerFileWhereMoreDoNotHelp) {
  ConnectionTarget target;
  Network network([](int n) { return std::min(n, 4) * 250 * kMB; });

  EXPECT_EQ(network.Run(target, seconds(3)), 4);
  EXPECT_LE(network.most_, 8);
  // It asks again, but seldom.
  int tries = 0;
  for (int before = 4, second = 0; second < 600; ++second) {
    const int level = network.Run(target, milliseconds(100));
    tries += level > before ? 1 : 0;
    before = level;
  }
  EXPECT_GE(tries, 1);
  EXPECT_LE(tries, 6);
}

TEST(ConnectionTargetTest, StopsWhereTheLineIsFull) {
  ConnectionTarget target;
  Network network([](int n) { return std::min(n * 50 * kMB, 380 * kMB); });

  EXPECT_EQ(network.Run(target, seconds(4)), 8);
}

TEST(ConnectionTargetTest, GoesBackWhenTheHostRefuses) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });
  network.Run(target, seconds(2));

  target.OnRefused(network.now_);
  network.busy_ = target.level();

  EXPECT_EQ(target.level(), 16);
  EXPECT_EQ(network.Run(target, seconds(2)), 16);
}

// More connections would bring more bytes into the file, only to be hashed later.
TEST(ConnectionTargetTest, StaysWhereThisProcessIsAllThatTheProcessorsDo) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });
  network.cpu_share_ = 0.7;
  EXPECT_EQ(network.Run(target, seconds(3)), 4);

  network.cpu_share_ = 0.3;
  EXPECT_EQ(network.Run(target, seconds(2)), 32);
}

// A server that lets connections begin fast makes a few of them look as good as many.
TEST(ConnectionTargetTest, AFastBeginningIsFoundOut) {
  ConnectionTarget target;
  bool fast = true;
  Network network([&fast](int n) { return fast ? 1000 * kMB : n * 50 * kMB; });
  EXPECT_EQ(network.Run(target, seconds(1)), 4);
  EXPECT_EQ(network.most_, 8);

  fast = false;

  EXPECT_EQ(network.Run(target, seconds(2)), 32);
}

// What small files and the way to the bytes take says nothing about connections.
TEST(ConnectionTargetTest, TheFirstByteBeginsTheFirstWindow) {
  ConnectionTarget target;
  Network network([](int) { return 0; });
  EXPECT_EQ(network.Run(target, seconds(1)), 4);
  EXPECT_EQ(network.most_, 4);
}

TEST(ConnectionTargetTest, ABandwidthLimitIsNoReasonForMore) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });
  network.sample_.limited = true;

  EXPECT_EQ(network.Run(target, seconds(3)), 4);
}

TEST(ConnectionTargetTest, NoMoreThanThereIsWorkForOrMayBe) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });
  network.sample_.hungry = false;
  EXPECT_EQ(network.Run(target, seconds(2)), 4);

  network.sample_.hungry = true;
  network.sample_.max = 6;
  EXPECT_EQ(network.Run(target, seconds(2)), 6);
  network.sample_.max = 2;
  EXPECT_EQ(network.Run(target, seconds(1)), 2);
}

TEST(ConnectionTargetTest, BeginsAnewWithTheNextDownload) {
  ConnectionTarget target;
  Network network([](int n) { return n * 50 * kMB; });
  network.Run(target, seconds(2));

  network.sample_.base = 1;
  network.Idle(target);

  EXPECT_EQ(target.level(), 1);
}

}  // namespace
}  // namespace modeld
