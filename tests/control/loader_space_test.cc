#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "server/control/loader.h"
#include "tests/control/control_fixture.h"
#include "tests/support/small_disk.h"

namespace modeld {
namespace {

using testing::HasSubstr;

constexpr int kFiles = 12;
constexpr int64_t kFileBytes = 500'000;

// A daemon whose primary cache is a disk of 16 MB, and a model of 6 MB in more files than the pool
// has in flight.
class LoaderSpaceTest : public ControlTest {
 protected:
  void OnSmallDisk(const std::function<void(SmallDisk&)>& body) {
    hub_.AddFile("org/m", "config.json", R"({"model_type":"llama","architectures":["L"]})");
    for (int i = 0; i < kFiles; ++i) {
      hub_.AddFile("org/m", "part-" + std::to_string(100 + i) + ".safetensors",
                   TestBytes(kFileBytes, static_cast<uint32_t>(i)));
    }
    SmallDisk::Run(cache(), 16, [&](SmallDisk& disk) {
      Start();
      Register("m", "org/m");
      body(disk);
      Stop();
    });
  }
  Operations& operations() { return daemon().operations; }
  // A download that has found the disk full half-way and waits.
  Operation WaitingForSpace(SmallDisk& disk) {
    hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":500000})");
    const auto operation = operations().Download({.model_name = "m"});
    EXPECT_THAT(operation, IsOk());
    EXPECT_TRUE(Eventually([&] { return IsFetching(*operation); }));
    EXPECT_TRUE(Eventually([&] {
      disk.EatAll();
      const Operation now = Now(*operation);
      if (!now.waits_for_space) return false;
      if (DetailsOf(now.error).metadata["free_bytes"] == "0") return true;
      // It had room still, which it gave back when it stopped.
      const absl::Status resumed = operations().Resume(now.name).status();
      EXPECT_TRUE(resumed.ok() || HasReason(resumed, Reason::kOperationNotActive)) << resumed;
      return false;
    }));
    hub_.ClearFaults();
    return Now(*operation);
  }
  Operation Now(const Operation& operation) {
    return operations().Get(operation.name).value_or(Operation());
  }
  // Body bytes that came.
  double Received() {
    double bytes = 0;
    for (const std::string& line :
         std::vector<std::string>(absl::StrSplit(daemon().metrics.Scrape(), '\n'))) {
      if (line.starts_with("modeld_download_wire_bytes_total{")) {
        bytes += std::stod(line.substr(line.rfind(' ')));
      }
    }
    return bytes;
  }
  bool Shows(const std::string& line) {
    return daemon().metrics.Scrape().find(line) != std::string::npos;
  }
};

TEST_F(LoaderSpaceTest, AFullDiskPausesWithBothFiguresAndRoomGoesOnWithoutFetchingAgain) {
  OnSmallDisk([&](SmallDisk& disk) {
    const Operation waiting = WaitingForSpace(disk);

    EXPECT_EQ(waiting.state, OperationState::kPaused);
    EXPECT_THAT(waiting.error, HasReasonOf(Reason::kInsufficientDisk));
    EXPECT_TRUE(DetailsOf(waiting.error).metadata.contains("required_bytes"));
    EXPECT_TRUE(DetailsOf(waiting.error).metadata.contains("free_bytes"));
    EXPECT_EQ(StateOf("m"), ModelState::kDownloading);
    EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM reservations"), "0\n");
    const auto missing = operations().Plan({.model_name = "m"}, {});
    ASSERT_THAT(missing, IsOk());
    const double received = Received();
    disk.GiveBack();
    const Operation ended = Finished(waiting);

    EXPECT_EQ(ended.state, OperationState::kSucceeded) << ended.error;
    EXPECT_THAT(ended.error, IsOk());
    EXPECT_EQ(ended.progress.bytes_done, ended.progress.bytes_total);
    EXPECT_EQ(Received() - received, missing->fetch_bytes);
  });
}

TEST_F(LoaderSpaceTest, AResumeWithoutRoomWaitsAgain) {
  OnSmallDisk([&](SmallDisk& disk) {
    const Operation waiting = WaitingForSpace(disk);
    const int64_t epoch = waiting.epoch;

    ASSERT_THAT(operations().Resume(waiting.name), IsOk());

    EXPECT_TRUE(Eventually([&] {
      const Operation now = Now(waiting);
      return now.epoch > epoch && now.waits_for_space;
    }));
    EXPECT_GE(Now(waiting).progress.bytes_done, waiting.progress.bytes_done);
    disk.GiveBack();
    EXPECT_EQ(Finished(waiting).state, OperationState::kSucceeded);
  });
}

TEST_F(LoaderSpaceTest, ACancelEndsTheWaitAndNothingRemainsToBeFetched) {
  OnSmallDisk([&](SmallDisk& disk) {
    const Operation waiting = WaitingForSpace(disk);
    EXPECT_TRUE(
        Eventually([&] { return !Shows("modeld_download_remaining_bytes{model=\"m\"} 0"); }));

    const auto cancelled = operations().Cancel(waiting.name);

    ASSERT_THAT(cancelled, IsOk());
    EXPECT_EQ(cancelled->state, OperationState::kCancelled);
    EXPECT_FALSE(cancelled->waits_for_space);
    EXPECT_TRUE(
        Eventually([&] { return Shows("modeld_download_remaining_bytes{model=\"m\"} 0"); }));
  });
}

TEST_F(LoaderSpaceTest, TheWaitOutlivesTheDaemon) {
  OnSmallDisk([&](SmallDisk& disk) {
    const Operation waiting = WaitingForSpace(disk);
    Stop();
    disk.GiveBack();

    Start();

    EXPECT_EQ(Finished(waiting).state, OperationState::kSucceeded);
  });
}

TEST_F(LoaderSpaceTest, SpaceThatWasNeverThereIsRefusedAtOnce) {
  OnSmallDisk([&](SmallDisk& disk) {
    disk.Eat(12 << 20);

    const Operation operation = Finished(operations().Download({.model_name = "m"}));

    EXPECT_EQ(operation.state, OperationState::kFailed);
    EXPECT_THAT(operation.error, HasReasonOf(Reason::kInsufficientDisk));
    EXPECT_EQ(Received(), 0);
  });
}

TEST_F(LoaderSpaceTest, RoomThatAnotherOperationWasPromisedIsNotThere) {
  OnSmallDisk([&](SmallDisk&) {
    hub_.AddFile("org/big", "model.safetensors", TestBytes(12'000'000, 50));
    Register("big", "org/big");
    hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":500000})");
    const auto first = operations().Download({.model_name = "m"});
    ASSERT_TRUE(Eventually([&] { return IsFetching(*first); }));

    const Operation second = Finished(operations().Download({.model_name = "big"}));
    hub_.ClearFaults();

    EXPECT_EQ(second.state, OperationState::kFailed);
    EXPECT_THAT(std::string(second.error.message()), HasSubstr("needs 12.0 MB"));
    EXPECT_EQ(Finished(first).state, OperationState::kSucceeded);
  });
}

}  // namespace
}  // namespace modeld
