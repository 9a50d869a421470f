// The whole control plane of one node over a real database, a fake hub and fake engines.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "server/base/clock.h"
#include "server/base/random.h"
#include "server/control/caches.h"
#include "server/control/changes.h"
#include "server/control/engine_events.h"
#include "server/control/live_progress.h"
#include "server/control/loader.h"
#include "server/control/nodes.h"
#include "server/control/operations.h"
#include "server/control/registry.h"
#include "server/control/router.h"
#include "server/control/tables.h"
#include "server/store/listener.h"
#include "tests/support/fake_hub.h"
#include "tests/support/postgres.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {

inline constexpr char kNodeId[] = "11111111-2222-4333-8444-555555555555";
inline constexpr std::chrono::milliseconds kLong{60'000};  // more than any test takes

struct DaemonOptions {
  std::string database_url;
  std::string hub_url;
  std::string folder;  // with cache/, second/, custom/, run/ and modeld-engine in it
  int64_t cpu_memory_bytes = 1'000'000'000;
  std::chrono::milliseconds hub_patience{5'000};
  bool with_loader = true;
  bool offline = false;  // hub.offline
  int64_t attempts_max = 16;
  Clock* loader_clock = &Clock::Real();
};

// Everything that a daemon builds for control, in its order. Ends as the daemon does.
struct Daemon {
  explicit Daemon(const DaemonOptions& o)
      : options(o),
        database({.url = o.database_url, .connect_timeout = std::chrono::milliseconds(500)}),
        tables(database),
        hub({.endpoint = o.hub_url,
             .credentials_dir = o.folder + "/credentials",
             .offline = o.offline,
             .retries_max = 1,
             .connect_timeout = std::chrono::milliseconds(500),
             .backoff_base = std::chrono::milliseconds(20)},
            Clock::Real()),
        pool({.workers = 4}, hub, metrics, Clock::Real()),
        engines({.program = o.folder + "/modeld-engine",
                 .socket_dir = o.folder + "/run",
                 .node_name = "test",
                 .cpu_memory_bytes = o.cpu_memory_bytes,
                 .nvml_library = "no-such-library.so"},
                metrics, Clock::Real(), [this](const Engines::Event& e) { events.Add(e); }),
        registry({.roots = {.primary = o.folder + "/cache",
                            .secondary = o.folder + "/second",
                            .custom_roots = {o.folder + "/custom"}},
                  .node_id = kNodeId,
                  .hub_patience = o.hub_patience},
                 {.tables = tables, .hub = hub, .engines = engines, .metrics = metrics}),
        caches(
            {.node_id = kNodeId, .hub_patience = o.hub_patience},
            {.tables = tables, .registry = registry, .hub = hub, .engines = engines, .pool = pool}),
        nodes({.node_id = kNodeId, .node_name = "test", .address = "127.0.0.1:1"},
              {.tables = tables, .registry = registry, .engines = engines}),
        live(changes),
        operations({.node_id = kNodeId}, {.tables = tables,
                                          .registry = registry,
                                          .hub = hub,
                                          .pool = pool,
                                          .engines = engines,
                                          .changes = changes,
                                          .live = live}) {
    listener = std::make_unique<ChangeListener>(
        database.options(), [this](const std::string& what) { changes.Publish(what); });
    router = std::make_unique<Router>(
        Router::Parts{.tables = tables, .engines = engines, .changes = changes});
    if (o.with_loader) StartLoader();
  }

  void StartLoader() {
    Loader::Options loading;
    loading.node_id = kNodeId;
    loading.attempts_max = options.attempts_max;
    loading.tick = std::chrono::milliseconds(100);
    loading.heartbeat = std::chrono::milliseconds(500);
    loading.gauges = std::chrono::milliseconds(500);
    loading.retry_base = std::chrono::milliseconds(100);
    loading.space_check = std::chrono::milliseconds(100);
    loading.drain = std::chrono::milliseconds(2'000);
    loader = std::make_unique<Loader>(loading, Loader::Parts{.tables = tables,
                                                             .registry = registry,
                                                             .nodes = nodes,
                                                             .hub = hub,
                                                             .pool = pool,
                                                             .engines = engines,
                                                             .events = events,
                                                             .changes = changes,
                                                             .live = live,
                                                             .metrics = metrics,
                                                             .clock = *options.loader_clock});
  }

  const DaemonOptions options;
  Database database;
  Tables tables;
  Metrics metrics;
  Changes changes;
  HubClient hub;
  DownloadPool pool;
  EngineEvents events;
  Engines engines;
  Registry registry;
  Caches caches;
  Nodes nodes;
  LiveProgress live;
  Operations operations;
  std::unique_ptr<ChangeListener> listener;
  std::unique_ptr<Router> router;
  std::unique_ptr<Loader> loader;
};

class ControlTest : public testing::Test {
 protected:
  explicit ControlTest(TestPostgres& postgres = TestPostgres::Shared())
      : url_(postgres.NewDatabase()) {
    std::filesystem::create_symlink(FAKE_ENGINE_PROGRAM, folder_.path() + "/modeld-engine");
    std::filesystem::create_directories(folder_.path() + "/custom");
    Database database({.url = url_});
    const absl::Status migrated = database.Migrate();
    EXPECT_THAT(migrated, IsOk());
  }

  DaemonOptions Options() const {
    return {.database_url = url_, .hub_url = hub_.url(), .folder = folder_.path()};
  }
  // The daemon of the test; anew after Stop().
  Daemon& Start() { return Start(Options()); }
  Daemon& Start(const DaemonOptions& options) {
    daemon_ = std::make_unique<Daemon>(options);
    return *daemon_;
  }
  void Stop() { daemon_.reset(); }
  Daemon& daemon() { return *daemon_; }

  // A repository of the family that the fake inspect supports; `weights_bytes` of weights.
  void AddRepo(const std::string& repo, int64_t weights_bytes = 100'000) {
    hub_.AddFile(repo, "config.json", R"({"model_type":"llama","architectures":["L"]})");
    hub_.AddFile(repo, "model.safetensors", TestBytes(weights_bytes, 7));
  }
  // What the fake engines do (tests/support/fake_engine/script.h).
  void ScriptEngine(const std::string& json) {
    std::ofstream(folder_.path() + "/modeld-engine.json") << json;
  }
  std::string cache() const { return folder_.path() + "/cache"; }

  ModelView Register(const std::string& name, const std::string& repo) {
    const auto registered = daemon().registry.Register({.model_name = name, .hf_path = repo}, {});
    EXPECT_THAT(registered, IsOk());
    return registered.ok() ? registered->view : ModelView();
  }
  // The operation at its end.
  Operation Finished(const absl::StatusOr<Operation>& operation) {
    EXPECT_THAT(operation, IsOk());
    if (!operation.ok()) return {};
    const auto waited = daemon().operations.Wait(operation->name, kLong, {});
    EXPECT_THAT(waited, IsOk());
    EXPECT_TRUE(waited.ok() && waited->done()) << "it did not end";
    return waited.value_or(Operation());
  }
  // Waits until `holds` does; for what has no operation to wait for.
  template <typename Holds>
  ::testing::AssertionResult Eventually(Holds holds) {
    const auto deadline = Clock::Real().Steady() + kLong;
    while (Clock::Real().Steady() < deadline) {
      if (holds()) return ::testing::AssertionSuccess();
      Clock::Real().Sleep(std::chrono::milliseconds(20), {});
    }
    return ::testing::AssertionFailure() << "did not come true";
  }
  // Whether a file of the operation is on its way, with its space allocated.
  bool IsFetching(const Operation& operation) {
    const auto now = daemon().operations.Get(operation.name);
    return now.ok() && std::ranges::any_of(now->progress.files, [](const FileProgress& file) {
             return file.state == FileState::kDownloading;
           });
  }
  ModelState StateOf(const std::string& name) {
    const auto view = daemon().registry.Get(name);
    return view.ok() ? view->state : ModelState::kUnspecified;
  }
  std::vector<Instance> ReadyInstances() {
    std::vector<Instance> ready = daemon().engines.List();
    std::erase_if(ready, [](const Instance& i) { return i.state != InstanceState::kReady; });
    return ready;
  }

  TempDir folder_;
  FakeHub hub_;
  const std::string url_;
  std::unique_ptr<Daemon> daemon_;
};

}  // namespace modeld
