#include "server/control/paused_downloads.h"

#include <string>

#include "tests/control/control_fixture.h"
#include "tests/support/fake_clock.h"

namespace modeld {
namespace {

using std::chrono::seconds;

constexpr int64_t kNeverFree = int64_t{1} << 60;

// Without a loader: looks happen when the test makes them.
class PausedDownloadsTest : public ControlTest {
 protected:
  void SetUp() override {
    DaemonOptions options = Options();
    options.with_loader = false;
    Start(options);
    AddRepo("org/m");
    Register("a", "org/m");
    Register("b", "org/m");
  }
  Operation Download(const std::string& model) {
    return daemon().operations.Download({.model_name = model}).value_or(Operation());
  }
  // The operation, which is PENDING, was at work and misses so many bytes.
  void WaitForSpace(const Operation& operation, int64_t required_bytes, int64_t bytes_done = 30) {
    const auto claimed = table().Claim(kNodeId, seconds(30), {.downloads = 10});
    ASSERT_THAT(claimed, IsOk());
    ASSERT_THAT(*claimed, testing::SizeIs(1));
    ASSERT_EQ(claimed->front().name, operation.name);
    const OperationLease lease = {
        .name = operation.name, .owner = kNodeId, .epoch = claimed->front().epoch};
    ASSERT_THAT(table().WaitForSpace(
                    lease, InsufficientBytes(Reason::kInsufficientDisk, cache(), required_bytes, 0),
                    {.bytes_done = bytes_done, .bytes_total = 100}),
                IsOk());
  }
  OperationState StateOf(const Operation& operation) { return table().Get(operation.name)->state; }
  OperationsTable& table() { return daemon().tables.operations; }
  bool Remaining(const std::string& model, int64_t bytes) {
    return daemon().metrics.Scrape().find("modeld_download_remaining_bytes{model=\"" + model +
                                          "\"} " + std::to_string(bytes) + "\n") !=
           std::string::npos;
  }
  PausedDownloads Paused() {
    return PausedDownloads({.node_id = kNodeId}, {.tables = daemon().tables,
                                                  .registry = daemon().registry,
                                                  .metrics = daemon().metrics,
                                                  .clock = clock_});
  }

  // The look that first sees what waits, and the one that may make it go on.
  void LookTwice(PausedDownloads& paused) {
    paused.Look({});
    clock_.Advance(seconds(5));
    paused.Look({});
  }

  FakeClock clock_;
};

TEST_F(PausedDownloadsTest, OnlyWhatHasRoomGoesOn) {
  PausedDownloads paused = Paused();
  const Operation large = Download("a");
  WaitForSpace(large, kNeverFree);
  const Operation small = Download("b");
  WaitForSpace(small, 1'000);

  LookTwice(paused);

  EXPECT_EQ(StateOf(large), OperationState::kPaused);
  EXPECT_EQ(StateOf(small), OperationState::kPending);
  EXPECT_THAT(table().Get(small.name)->error, IsOk());
}

TEST_F(PausedDownloadsTest, WhatIsPausedByRequestDoesNotGoOnByItself) {
  PausedDownloads paused = Paused();
  const Operation waiting = Download("a");
  WaitForSpace(waiting, 1'000);
  ASSERT_THAT(daemon().operations.Pause(waiting.name), IsOk());

  LookTwice(paused);

  EXPECT_EQ(StateOf(waiting), OperationState::kPaused);
  EXPECT_THAT(table().Get(waiting.name)->error, IsOk());
}

TEST_F(PausedDownloadsTest, RoomIsLookedForEveryFewSeconds) {
  PausedDownloads paused = Paused();
  const Operation waiting = Download("a");
  WaitForSpace(waiting, 1'000);
  paused.Look({});

  clock_.Advance(seconds(4));
  paused.Look({});
  EXPECT_EQ(StateOf(waiting), OperationState::kPaused);
  clock_.Advance(seconds(1));
  paused.Look({});

  EXPECT_EQ(StateOf(waiting), OperationState::kPending);
}

// As with a quota, of which the filesystem says nothing.
TEST_F(PausedDownloadsTest, WhereWritesFailThoughThereIsRoomItTriesLessAndLessOften) {
  PausedDownloads paused = Paused();
  const Operation waiting = Download("a");
  std::vector<int64_t> pauses;
  for (int i = 0; i < 6; ++i) {
    WaitForSpace(waiting, 1'000);
    int64_t passed = 0;
    for (; StateOf(waiting) == OperationState::kPaused; passed += 5) {
      clock_.Advance(seconds(5));
      paused.Look({});
    }
    pauses.push_back(passed);
  }

  EXPECT_THAT(pauses, testing::ElementsAre(10, 15, 25, 45, 65, 65));
  WaitForSpace(waiting, 1'000, /*bytes_done=*/31);
  clock_.Advance(seconds(5));
  paused.Look({});
  clock_.Advance(seconds(5));
  paused.Look({});
  EXPECT_EQ(StateOf(waiting), OperationState::kPending) << "bytes that came begin it anew";
}

TEST_F(PausedDownloadsTest, OneLookDoesNotGiveTheSameRoomTwice) {
  PausedDownloads paused = Paused();
  const int64_t most = FilesystemOf(cache())->free_bytes / 10 * 6;
  const Operation first = Download("a");
  WaitForSpace(first, most);
  const Operation second = Download("b");
  WaitForSpace(second, most);

  LookTwice(paused);

  EXPECT_EQ(StateOf(first), OperationState::kPending);
  EXPECT_EQ(StateOf(second), OperationState::kPaused);
}

TEST_F(PausedDownloadsTest, TheGaugeSaysWhatPausedOnesStillHaveToFetch) {
  PausedDownloads paused = Paused();
  const Operation operation = Download("a");
  WaitForSpace(operation, kNeverFree);
  paused.Look({});
  EXPECT_TRUE(Remaining("a", 70));

  ASSERT_THAT(daemon().operations.Cancel(operation.name), IsOk());
  paused.Look({});

  EXPECT_TRUE(Remaining("a", 0));
}

TEST_F(PausedDownloadsTest, TheGaugeOfAModelAtWorkIsLeftAlone) {
  PausedDownloads paused = Paused();
  const Operation operation = Download("a");
  WaitForSpace(operation, kNeverFree);
  daemon().metrics.download_remaining_bytes.Add({{"model", "a"}}).Set(5);

  paused.Look({"a"});

  EXPECT_TRUE(Remaining("a", 5));
}

}  // namespace
}  // namespace modeld
