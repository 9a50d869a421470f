#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/control/loader.h"
#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

constexpr char kSlow[] = R"({"kind":"drip","on":"cdn","bytes_per_s":500000})";

class LoaderPriorityTest : public ControlTest {
 protected:
  // Every repository but org/small comes slowly.
  void StartWith(int64_t attempts_max) {
    DaemonOptions options = Options();
    options.attempts_max = attempts_max;
    Start(options);
    AddRepo("org/a", 1'500'000);
    AddRepo("org/b", 1'500'000);
    hub_.AddFile("org/small", "config.json", R"({"model_type":"llama","architectures":["L"]})");
    hub_.AddFile("org/small", "model.safetensors", TestBytes(10'000, 3));
    hub_.AddFault(kSlow);
    Register("a", "org/a");
    Register("b", "org/b");
    Register("small", "org/small");
  }
  Operations& operations() { return daemon().operations; }
  Operation Now(const Operation& operation) {
    return operations().Get(operation.name).value_or(Operation());
  }
  // A download that is under way.
  Operation Running(const std::string& model, int32_t priority = 0) {
    const auto operation = operations().Download({.model_name = model, .priority = priority});
    EXPECT_THAT(operation, IsOk());
    EXPECT_TRUE(Eventually([&] { return IsFetching(*operation); }));
    return *operation;
  }
};

TEST_F(LoaderPriorityTest, ALoadDoesNotWaitUntilBackgroundDownloadsLeaveAPlace) {
  StartWith(/*attempts_max=*/1);
  const Operation background = Running("a");

  const Operation load = Finished(operations().Load({.model_name = "small"}));

  EXPECT_EQ(load.state, OperationState::kSucceeded) << load.error;
  EXPECT_EQ(Now(background).state, OperationState::kRunning);
}

TEST_F(LoaderPriorityTest, ADownloadOfAHigherPriorityTakesThePlaceOfTheLowest) {
  StartWith(/*attempts_max=*/1);
  const Operation low = Running("a", -1);

  const Operation high = Finished(operations().Download({.model_name = "small", .priority = 5}));

  EXPECT_EQ(high.state, OperationState::kSucceeded) << high.error;
  EXPECT_FALSE(Now(low).done());
  hub_.ClearFaults();
  EXPECT_EQ(Finished(low).state, OperationState::kSucceeded);
}

TEST_F(LoaderPriorityTest, ADownloadOfTheSamePriorityWaitsForAPlace) {
  StartWith(/*attempts_max=*/1);
  const Operation first = Running("a");

  const auto second = operations().Download({.model_name = "small"});
  hub_.ClearFaults();

  EXPECT_EQ(Finished(second).state, OperationState::kSucceeded);
  EXPECT_LE(*Now(first).end_time, *Now(*second).end_time);
}

TEST_F(LoaderPriorityTest, ALoadRaisesTheDownloadThatItWaitsFor) {
  StartWith(/*attempts_max=*/16);
  const Operation background = Now(Running("a", -7));

  const auto load = operations().Load({.model_name = "a"});

  ASSERT_THAT(load, IsOk());
  EXPECT_EQ(Now(background).spec.priority, 100);
  // Begun anew with it: files that wait in the pool keep the priority that they came with.
  EXPECT_TRUE(Eventually(
      [&] { return Now(background).epoch > background.epoch || Now(background).done(); }));
  hub_.ClearFaults();
  EXPECT_EQ(Finished(background).state, OperationState::kSucceeded);
  EXPECT_EQ(Finished(load).state, OperationState::kSucceeded);
}

TEST_F(LoaderPriorityTest, ALimitIsObeyedWhileItRunsAndKeptOverARestart) {
  StartWith(/*attempts_max=*/16);
  hub_.ClearFaults();
  const auto limited = operations().Download({.model_name = "a", .bytes_per_second_max = 1});
  ASSERT_THAT(limited, IsOk());
  ASSERT_TRUE(Eventually([&] { return IsFetching(*limited); }));
  EXPECT_EQ(operations().Limits(limited->name)->bytes_per_second, 1);

  DaemonOptions options = daemon().options;
  Stop();
  Start(options);
  ASSERT_TRUE(Eventually([&] { return IsFetching(*limited); }));
  EXPECT_EQ(operations().Limits(limited->name)->bytes_per_second, 1);
  const auto lifted = operations().SetLimits({.operation = limited->name, .bytes_per_second = 0});

  ASSERT_THAT(lifted, IsOk());
  EXPECT_EQ(lifted->bytes_per_second, 0);
  EXPECT_EQ(Finished(limited).state, OperationState::kSucceeded);
  EXPECT_THAT(operations().SetLimits({.operation = limited->name, .bytes_per_second = 1}),
              HasReasonOf(Reason::kOperationNotActive));
}

TEST_F(LoaderPriorityTest, TheDaemonsOwnLimitHoldsForWhatRuns) {
  StartWith(/*attempts_max=*/16);
  hub_.ClearFaults();
  ASSERT_THAT(operations().SetLimits({.bytes_per_second = 1}), IsOk());
  const auto limited = operations().Download({.model_name = "a"});
  ASSERT_TRUE(Eventually([&] { return IsFetching(*limited); }));

  const auto lifted = operations().SetLimits({.bytes_per_second = 0, .connections = 2});

  ASSERT_THAT(lifted, IsOk());
  EXPECT_EQ(lifted->connections, 2);
  EXPECT_EQ(operations().Limits("")->bytes_per_second, 0);
  EXPECT_EQ(Finished(limited).state, OperationState::kSucceeded);
}

TEST_F(LoaderPriorityTest, ASharedDownloadHasTheHigherPriority) {
  StartWith(/*attempts_max=*/16);
  const Operation first = Running("a", 1);

  const auto urgent = operations().Download({.model_name = "a", .priority = 9});
  const auto idle = operations().Download({.model_name = "a", .priority = -9});

  EXPECT_EQ(urgent->name, first.name);
  EXPECT_EQ(urgent->spec.priority, 9);
  EXPECT_EQ(idle->spec.priority, 9);
}

// Another program of this machine that holds the lock of the weights, as huggingface_hub does.
class LoaderLockTest : public LoaderPriorityTest {
 protected:
  // A download that waits for the lock.
  Operation WaitingForLock() {
    StartWith(/*attempts_max=*/16);
    hub_.ClearFaults();
    const auto plan = operations().Plan({.model_name = "small"}, {});
    EXPECT_THAT(plan, IsOk());
    const RepoCache repo(cache(), "org/small");
    EXPECT_THAT(repo.Prepare(plan->commit), IsOk());
    lock_.emplace(*FileLock::TryAcquire(repo.LockPath(BlobOf("model.safetensors"))));
    const auto operation = operations().Download({.model_name = "small"});
    EXPECT_THAT(operation, IsOk());
    EXPECT_TRUE(
        Eventually([&] { return Now(*operation).progress.phase == OperationPhase::kDownloading; }));
    return *operation;
  }
  std::string BlobOf(const std::string& path) {
    HubClient& hub = daemon().hub;
    const HubRepo repo{.id = "org/small"};
    const auto listing = hub.ListFiles(repo, *hub.ResolveRevision(repo, "main", {}, {}), {}, {});
    for (const RepoFile& file : listing->files) {
      if (file.path == path) return file.blob;
    }
    return "";
  }

  std::optional<FileLock> lock_;
};

TEST_F(LoaderLockTest, ADownloadThatWaitsForALockIsPausedAndResumed) {
  const Operation operation = WaitingForLock();

  ASSERT_THAT(operations().Pause(operation.name), IsOk());
  EXPECT_TRUE(Eventually([&] { return Now(operation).state == OperationState::kPaused; }));
  lock_.reset();
  ASSERT_THAT(operations().Resume(operation.name), IsOk());

  EXPECT_EQ(Finished(operation).state, OperationState::kSucceeded);
}

TEST_F(LoaderLockTest, ADownloadThatWaitsForALockIsCancelled) {
  const Operation operation = WaitingForLock();

  ASSERT_THAT(operations().Cancel(operation.name), IsOk());

  EXPECT_EQ(Finished(operation).state, OperationState::kCancelled);
}

TEST_F(LoaderPriorityTest, ADownloadThatWaitsForTheHubIsPausedAndCancelled) {
  StartWith(/*attempts_max=*/16);
  hub_.ClearFaults();
  hub_.AddFault(R"({"kind":"status","on":"api","status":429,"headers":{"Retry-After":"300"}})");
  const auto operation = operations().Download({.model_name = "small"});
  ASSERT_TRUE(
      Eventually([&] { return Now(*operation).progress.phase == OperationPhase::kResolving; }));

  ASSERT_THAT(operations().Pause(operation->name), IsOk());
  EXPECT_TRUE(Eventually([&] { return Now(*operation).state == OperationState::kPaused; }));
  ASSERT_THAT(operations().Cancel(operation->name), IsOk());

  EXPECT_EQ(Finished(operation).state, OperationState::kCancelled);
}

}  // namespace
}  // namespace modeld
