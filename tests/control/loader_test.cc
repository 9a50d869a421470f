#include "server/control/loader.h"

#include <algorithm>
#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kSlow[] = R"({"kind":"drip","on":"cdn","bytes_per_s":300000})";

class LoaderTest : public ControlTest {
 protected:
  void SetUp() override {
    Start();
    AddRepo("org/m");
  }
  Operations& operations() { return daemon().operations; }
  // Registers "m" over a repository of 3 MB that comes slowly, and waits until some of it is here.
  Operation SlowDownload() {
    AddRepo("org/slow", 3'000'000);
    Register("m", "org/slow");
    hub_.AddFault(kSlow);
    const auto operation = operations().Download({.model_name = "m"});
    EXPECT_THAT(operation, IsOk());
    EXPECT_TRUE(Eventually([&] {
      const auto progress = daemon().live.Get(operation->name);
      return progress && progress->bytes_done > 100'000;
    }));
    return *operation;
  }
  // Body bytes of the weights that the hub sent.
  int64_t WeightBytesSent() {
    int64_t bytes = 0;
    for (const FakeHubRequest& request : hub_.Requests()) {
      if (request.method == "GET" && request.on == "cdn") bytes += request.bytes;
    }
    return bytes;
  }
  std::string Sql(const std::string& sql) {
    std::string out = RunSql(url_, sql);
    while (out.ends_with('\n')) out.pop_back();
    return out;
  }
};

TEST_F(LoaderTest, ADownloadBringsTheFilesIntoTheRowsCacheAndMovesTheRow) {
  const std::string custom = folder_.path() + "/custom/disk";
  ASSERT_THAT(
      daemon().registry.Register(
          {.model_name = "m", .hf_path = "org/m", .cache_location = "custom", .cache_path = custom},
          {}),
      IsOk());

  const Operation operation = Finished(operations().Download({.model_name = "m"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_EQ(operation.progress.bytes_done, operation.progress.bytes_total);
  EXPECT_EQ(operation.progress.files_done, 2);
  const ModelView view = *daemon().registry.Get("m");
  EXPECT_EQ(view.state, ModelState::kDownloaded);
  EXPECT_THAT(view.model.snapshot_path, HasSubstr(custom + "/hub/models--org--m/snapshots/"));
  EXPECT_EQ(ReadFile(view.model.snapshot_path + "/model.safetensors").value_or(""),
            TestBytes(100'000, 7));
  EXPECT_EQ(RepoCache(custom, "org/m").ReadRef("main").value_or(""), view.model.commit);
  EXPECT_FALSE(std::filesystem::exists(cache() + "/hub/models--org--m"));
  EXPECT_EQ(Sql("SELECT count(*) FROM reservations"), "0");
}

TEST_F(LoaderTest, ALoadDownloadsFirstAndIsReadyWhenItSucceeds) {
  Register("m", "org/m");

  const Operation operation = Finished(operations().Load({.model_name = "m", .pin = true}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_EQ(operation.progress.phase, OperationPhase::kReady);
  EXPECT_EQ(StateOf("m"), ModelState::kReady);
  EXPECT_THAT(ReadyInstances(), SizeIs(1));
  EXPECT_EQ(Sql("SELECT wanted, pinned FROM loads"), "t|t");
  EXPECT_THAT(*daemon().nodes.ListInstances(), SizeIs(1));
  EXPECT_THAT(daemon().registry.Delete("m", false), HasReasonOf(Reason::kModelInUse));
}

TEST_F(LoaderTest, WhatIsReadyAlreadyGivesAFinishedOperation) {
  Register("m", "org/m");
  Finished(operations().Load({.model_name = "m"}));
  const std::string instance = ReadyInstances().front().instance_id;

  const auto again = operations().Load({.model_name = "m", .pin = true});

  ASSERT_THAT(again, IsOk());
  EXPECT_EQ(again->state, OperationState::kSucceeded);
  EXPECT_THAT(operations().Get(again->name), IsOk());
  EXPECT_EQ(ReadyInstances().front().instance_id, instance);
  EXPECT_EQ(Sql("SELECT pinned FROM loads"), "t");
}

TEST_F(LoaderTest, OtherSettingsReplaceTheInstance) {
  Register("m", "org/m");
  Finished(operations().Load({.model_name = "m"}));
  const std::string before = ReadyInstances().front().instance_id;

  const Operation operation =
      Finished(operations().Load({.model_name = "m", .spec = {.dtype = "float32"}}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  ASSERT_THAT(ReadyInstances(), SizeIs(1));
  EXPECT_NE(ReadyInstances().front().instance_id, before);
  EXPECT_EQ(ReadyInstances().front().spec.dtype, "float32");
}

TEST_F(LoaderTest, CompleteFilesAreLoadedWithoutTheHub) {
  Register("m", "org/m");
  Finished(operations().Download({.model_name = "m"}));
  hub_.ClearRequests();

  const Operation operation = Finished(operations().Load({.model_name = "m"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

TEST_F(LoaderTest, ARemovedFileIsFetchedAgainBeforeALoad) {
  Register("m", "org/m");
  Finished(operations().Download({.model_name = "m"}));
  const std::string snapshot = daemon().registry.Get("m")->model.snapshot_path;
  std::filesystem::remove(std::filesystem::canonical(snapshot + "/model.safetensors"));

  const Operation operation = Finished(operations().Load({.model_name = "m"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_EQ(ReadFile(snapshot + "/model.safetensors").value_or(""), TestBytes(100'000, 7));
}

TEST_F(LoaderTest, AnUnloadGivesTheModelBackAndIsNotUndone) {
  Register("m", "org/m");
  Finished(operations().Load({.model_name = "m"}));

  const Operation operation = Finished(operations().Unload("m"));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_THAT(daemon().engines.List(), IsEmpty());
  EXPECT_EQ(StateOf("m"), ModelState::kDownloaded);
  EXPECT_EQ(Sql("SELECT wanted FROM loads"), "f");
}

TEST_F(LoaderTest, AnUnsupportedRepositoryIsDownloadedButNotLoaded) {
  hub_.AddFile("org/odd", "config.json", R"({"model_type":"mamba9"})");
  hub_.AddFile("org/odd", "model.safetensors", TestBytes(50'000, 1));
  // Registered while the hub is away, so that nothing is known of it.
  hub_.AddFault(R"({"kind":"status","on":"api","status":503})");
  Register("odd", "org/odd");
  hub_.ClearFaults();

  const Operation load = Finished(operations().Load({.model_name = "odd"}));

  EXPECT_THAT(load.error, HasReasonOf(Reason::kUnsupportedArchitecture));
  EXPECT_EQ(load.state, OperationState::kFailed);
  EXPECT_EQ(WeightBytesSent(), 0);
  EXPECT_EQ(StateOf("odd"), ModelState::kFailed);
  EXPECT_EQ(Finished(operations().Download({.model_name = "odd"})).state,
            OperationState::kSucceeded);
}

TEST_F(LoaderTest, AMissingRepositoryFailsTheOperation) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503})");
  Register("none", "org/none");
  hub_.ClearFaults();

  const Operation operation = Finished(operations().Download({.model_name = "none"}));

  EXPECT_EQ(operation.state, OperationState::kFailed);
  EXPECT_THAT(operation.error, HasReasonOf(Reason::kHubRepoNotFound));
  EXPECT_THAT(daemon().registry.Get("none")->error, HasReasonOf(Reason::kHubRepoNotFound));
}

TEST_F(LoaderTest, ATemporaryFailureIsTriedAgainWithinTheOperation) {
  Register("m", "org/m");
  hub_.AddFault(R"({"kind":"status","on":"api","status":503,"times":5})");

  const Operation operation = Finished(operations().Download({.model_name = "m"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  EXPECT_THAT(operation.error, IsOk());
}

TEST_F(LoaderTest, ACancelledDownloadKeepsItsBytesForTheNext) {
  const Operation slow = SlowDownload();

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(operations().Cancel(slow.name), IsOk());
  const Operation cancelled = Finished(slow);

  EXPECT_EQ(cancelled.state, OperationState::kCancelled);
  EXPECT_LT(Clock::Real().Steady() - begin, std::chrono::seconds(5));
  EXPECT_EQ(Sql("SELECT count(*) FROM reservations"), "0");
  hub_.ClearFaults();
  hub_.ClearRequests();
  EXPECT_EQ(Finished(operations().Download({.model_name = "m"})).state, OperationState::kSucceeded);
  EXPECT_LT(WeightBytesSent(), 2'980'000);
}

TEST_F(LoaderTest, APausedDownloadGoesOnWhenItIsResumed) {
  const Operation slow = SlowDownload();

  ASSERT_THAT(operations().Pause(slow.name), IsOk());
  ASSERT_TRUE(
      Eventually([&] { return operations().Get(slow.name)->state == OperationState::kPaused; }));
  EXPECT_EQ(StateOf("m"), ModelState::kDownloading);
  hub_.ClearFaults();
  ASSERT_THAT(operations().Resume(slow.name), IsOk());

  EXPECT_EQ(Finished(slow).state, OperationState::kSucceeded);
}

TEST_F(LoaderTest, ACancelledLoadIsNotWantedAnyMore) {
  ScriptEngine(R"({"load_hang":true})");
  Register("m", "org/m");
  const auto load = operations().Load({.model_name = "m"});
  ASSERT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kLoading; }));

  ASSERT_THAT(operations().Cancel(load->name), IsOk());

  EXPECT_EQ(Finished(load).state, OperationState::kCancelled);
  EXPECT_THAT(daemon().engines.List(), IsEmpty());
  EXPECT_EQ(Sql("SELECT count(*) FROM loads WHERE wanted"), "0");
}

TEST_F(LoaderTest, AnUnloadEndsALoadThatRuns) {
  ScriptEngine(R"({"load_hang":true})");
  Register("m", "org/m");
  const auto load = operations().Load({.model_name = "m"});
  ASSERT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kLoading; }));

  const auto unload = operations().Unload("m");

  EXPECT_EQ(Finished(unload).state, OperationState::kSucceeded);
  EXPECT_EQ(Finished(load).state, OperationState::kCancelled);
}

TEST_F(LoaderTest, ARestartContinuesADownload) {
  const Operation slow = SlowDownload();
  const int64_t sent_before = WeightBytesSent();

  Stop();
  hub_.ClearFaults();
  hub_.ClearRequests();
  Start();

  EXPECT_EQ(Finished(slow).state, OperationState::kSucceeded);
  EXPECT_EQ(StateOf("m"), ModelState::kDownloaded);
  EXPECT_LT(WeightBytesSent(), 2'980'000) << sent_before << " bytes were sent before";
}

TEST_F(LoaderTest, ARestartRestoresWantedLoads) {
  Register("m", "org/m");
  Finished(operations().Load({.model_name = "m", .spec = {.dtype = "float32"}, .pin = true}));

  Stop();
  EXPECT_EQ(Sql("SELECT count(*) FROM instances"), "0");
  Start();

  ASSERT_TRUE(Eventually([&] { return StateOf("m") == ModelState::kReady; }));
  EXPECT_EQ(ReadyInstances().front().spec.dtype, "float32");
  EXPECT_EQ(Sql("SELECT wanted, pinned FROM loads"), "t|t");
}

TEST_F(LoaderTest, ALostLeaseStopsTheWorkAndNothingMoreIsWritten) {
  const Operation slow = SlowDownload();

  Sql("UPDATE operations SET epoch = epoch + 1, owner = 'other',"
      " lease_until = now() + interval '1 hour'");
  ASSERT_TRUE(Eventually([&] { return !daemon().live.Get(slow.name).has_value(); }));

  EXPECT_EQ(Sql("SELECT state, owner FROM operations"), "2|other");
  EXPECT_EQ(daemon().registry.Get("m")->model.snapshot_path, "");
}

TEST_F(LoaderTest, DeletingAModelWithItsFilesKeepsWhatAnotherRowNeeds) {
  Register("a", "org/m");
  Register("b", "org/m");
  Finished(operations().Download({.model_name = "a"}));
  Finished(operations().Download({.model_name = "b"}));
  const std::string snapshot = daemon().registry.Get("b")->model.snapshot_path;

  const auto first = daemon().registry.Delete("a", true);
  EXPECT_TRUE(std::filesystem::exists(snapshot + "/model.safetensors"));
  const auto second = daemon().registry.Delete("b", true);

  ASSERT_THAT(first, IsOk());
  EXPECT_EQ(*first, 0);
  ASSERT_THAT(second, IsOk());
  EXPECT_GE(*second, 100'000);
  EXPECT_FALSE(std::filesystem::exists(snapshot));
}

TEST_F(LoaderTest, AnotherRevisionIsFetchedBesideTheOldAndMovesTheRow) {
  hub_.AddRevisionFile("org/r", "v1", "config.json", R"({"model_type":"llama"})");
  hub_.AddRevisionFile("org/r", "v1", "model.safetensors", TestBytes(50'000, 1));
  hub_.AddRevisionFile("org/r", "v2", "config.json", R"({"model_type":"llama"})");
  hub_.AddRevisionFile("org/r", "v2", "model.safetensors", TestBytes(50'000, 2));
  ASSERT_THAT(
      daemon().registry.Register({.model_name = "r", .hf_path = "org/r", .revision = "v1"}, {}),
      IsOk());
  Finished(operations().Load({.model_name = "r"}));
  const Model before = daemon().registry.Get("r")->model;

  const Operation operation = Finished(operations().Load({.model_name = "r", .revision = "v2"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  const Model after = daemon().registry.Get("r")->model;
  EXPECT_EQ(after.revision, "v2");
  EXPECT_NE(after.commit, before.commit);
  EXPECT_NE(after.snapshot_path, before.snapshot_path);
  EXPECT_TRUE(std::filesystem::exists(before.snapshot_path + "/model.safetensors"));
  ASSERT_THAT(ReadyInstances(), SizeIs(1));
  EXPECT_EQ(ReadyInstances().front().commit, after.commit);
}

TEST_F(LoaderTest, TheLeastRecentlyUsedModelMakesRoomAndIsNotWantedAnyMore) {
  Stop();
  DaemonOptions options = Options();
  hub_.AddFile("org/half", "config.json",
               R"({"model_type":"llama","fake_inspection":{"weights_bytes":
                  {"bfloat16":600000000,"float16":600000000,"float32":600000000}}})");
  hub_.AddFile("org/half", "model.safetensors", TestBytes(10'000, 1));
  Start(options);
  Register("first", "org/half");
  Register("second", "org/half");
  ASSERT_EQ(Finished(operations().Load({.model_name = "first"})).state, OperationState::kSucceeded);

  const Operation operation = Finished(operations().Load({.model_name = "second"}));

  EXPECT_EQ(operation.state, OperationState::kSucceeded) << operation.error;
  ASSERT_THAT(ReadyInstances(), SizeIs(1));
  EXPECT_EQ(ReadyInstances().front().model_name, "second");
  EXPECT_EQ(Sql("SELECT m.model_name FROM loads l JOIN modelregistry m ON m.id = l.model_id"
                " WHERE l.wanted"),
            "second");
}

TEST_F(LoaderTest, TheNodeAndTheGaugesAreKept) {
  Register("m", "org/m");
  Finished(operations().Load({.model_name = "m"}));

  EXPECT_TRUE(Eventually([&] {
    const std::string text = daemon().metrics.Scrape();
    return text.find("modeld_models{state=\"ready\"} 1") != std::string::npos &&
           text.find("modeld_instances{state=\"ready\"} 1") != std::string::npos &&
           text.find("modeld_cache_free_bytes{cache=\"primary\"}") != std::string::npos &&
           text.find("modeld_db_up 1") != std::string::npos;
  }));
  const auto nodes = daemon().nodes.List();
  ASSERT_THAT(nodes, IsOk());
  ASSERT_THAT(*nodes, SizeIs(1));
  EXPECT_EQ(nodes->front().node.name, "test");
  EXPECT_EQ(nodes->front().caches.front().path, cache());
  EXPECT_THAT(*daemon().nodes.ListDevices(), SizeIs(1));
}

}  // namespace
}  // namespace modeld
