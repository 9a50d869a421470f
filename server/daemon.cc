#include "server/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <thread>
#include <utility>

#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/notify.h"
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
#include "server/core/reason.h"
#include "server/download/download_pool.h"
#include "server/engines/engines.h"
#include "server/http/http_server.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"
#include "server/rpc/grpc_server.h"
#include "server/store/database.h"
#include "server/store/listener.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Between two tries to reach the database at start.
constexpr milliseconds kDatabasePause{1'000};
// How much longer systemd waits for READY after each try.
constexpr seconds kExtendStart{30};
// How often the main thread looks around: watchdog, status line, db_up.
constexpr seconds kTick{2};

LogLevel LogLevelOf(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warning") return LogLevel::kWarning;
  if (name == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

Database::Options DatabaseOptions(const Config& config) {
  return {.url = config.database.url,
          .password = config.database_password,
          .connections = static_cast<int>(config.database.connections)};
}

HttpSettings HttpOptions(const Config& config) {
  HttpSettings settings = HttpSettingsFromEnvironment();
  if (!config.hub.ca_file.empty()) settings.ca_file = config.hub.ca_file;
  settings.proxy = config.hub.proxy;
  return settings;
}

HubClient::Options HubOptions(const Config& config, Metrics& metrics) {
  std::vector<HubMirror> mirrors;
  for (const Config::Mirror& mirror : config.hub_mirrors) {
    mirrors.push_back({.url = mirror.url, .send_token = mirror.send_token});
  }
  return {.endpoint = config.hub.endpoint,
          .token = config.hub_token,
          .token_file = config.hub_token_path,
          .credentials_dir = config.hub.credentials_dir,
          .mirrors = std::move(mirrors),
          .offline = config.hub.offline,
          .http = HttpOptions(config),
          .on_retry = [&metrics](std::string_view reason) {
            metrics.download_retries.Add({{"reason", std::string(reason)}}).Increment();
          }};
}

Engines::Options EngineOptions(const Config& config) {
  return {.program = config.engine.program,
          .socket_dir = config.engine.socket_dir,
          .node_name = config.node.name,
          .threads = config.engine.threads,
          .cpu_memory_bytes = config.devices.cpu_memory_bytes,
          .cpu_budgets = config.devices.cpu_budgets,
          .requests_waiting_max = config.engine.requests_waiting_max,
          .limits = config.limits,
          .prefix_cache = config.engine.prefix_cache};
}

DownloadPool::Options PoolOptions(const Config& config) {
  return {.workers = static_cast<int>(config.download.workers),
          .stall_timeout = seconds(config.download.stall_seconds),
          .give_up_after = seconds(config.download.give_up_seconds)};
}

DownloadPool::Limits DownloadLimits(const Config& config) {
  const Config::Download& download = config.download;
  return {.bytes_per_second = download.bytes_per_second_max,
          .connections = static_cast<int>(download.connections_max),
          .connections_per_host = static_cast<int>(download.connections_per_host_max)};
}

Loader::Options LoaderOptions(const Config& config, const std::string& node_id) {
  Loader::Options options;
  options.node_id = node_id;
  options.load_timeout_base = seconds(config.engine.load_timeout_base_seconds);
  options.load_timeout_per_gib = seconds(config.engine.load_timeout_seconds_per_gib);
  return options;
}

// The identity of this node, made on its first start.
absl::StatusOr<std::string> NodeId(const std::string& state_dir) {
  const std::string path = state_dir + "/node_id";
  absl::StatusOr<std::string> id = ReadFile(path, 1024);
  if (id.ok() && id->size() >= 36) return id->substr(0, 36);
  if (!id.ok() && id.status().code() != absl::StatusCode::kNotFound) return id.status();
  const std::string made = RandomUuid();
  RETURN_IF_ERROR(WriteFileAtomically(path, made + "\n"));
  return made;
}

}  // namespace

struct Daemon::Rep {
  Rep(const Config& c, FileLock l, std::string id)
      : config(c),
        state_lock(std::move(l)),
        node_id(std::move(id)),
        database(DatabaseOptions(c)),
        tables(database),
        live(changes),
        hub(HubOptions(c, metrics), Clock::Real()),
        engines(EngineOptions(c), metrics, Clock::Real(),
                [this](const Engines::Event& event) { events.Add(event); }),
        pool(PoolOptions(c), hub, metrics, Clock::Real()),
        registry({.roots = c.cache, .require_mount = c.require_mount, .node_id = node_id},
                 {.tables = tables, .hub = hub, .engines = engines, .metrics = metrics}),
        caches(
            {.node_id = node_id},
            {.tables = tables, .registry = registry, .hub = hub, .engines = engines, .pool = pool}),
        operations({.node_id = node_id, .limits = DownloadLimits(c)}, {.tables = tables,
                                                                       .registry = registry,
                                                                       .hub = hub,
                                                                       .pool = pool,
                                                                       .engines = engines,
                                                                       .changes = changes,
                                                                       .live = live}),
        router({.tables = tables, .engines = engines, .changes = changes}) {}

  absl::Status Listen();
  absl::Status BringUpDatabase();
  void LookAround();

  const Config config;
  const FileLock state_lock;
  const std::string node_id;
  Metrics metrics;
  Changes changes;
  EngineEvents events;
  Database database;
  Tables tables;
  LiveProgress live;
  HubClient hub;
  Engines engines;
  DownloadPool pool;
  Registry registry;
  Caches caches;
  Operations operations;
  Router router;
  std::unique_ptr<Nodes> nodes;  // knows the bound address
  std::unique_ptr<GrpcServer> grpc;
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<ChangeListener> listener;
  std::unique_ptr<Loader> loader;  // last: it uses all of the above
  std::atomic<bool> migrated = false;
};

absl::Status Daemon::Rep::Listen() {
  nodes = std::make_unique<Nodes>(
      Nodes::Options{
          .node_id = node_id, .node_name = config.node.name, .address = config.server.grpc_address},
      Nodes::Parts{.tables = tables, .registry = registry, .engines = engines});
  ASSIGN_OR_RETURN(
      grpc, GrpcServer::Start({.address = config.server.grpc_address}, {.registry = registry,
                                                                        .caches = caches,
                                                                        .operations = operations,
                                                                        .nodes = *nodes,
                                                                        .router = router,
                                                                        .changes = changes,
                                                                        .metrics = metrics}));
  nodes->SetAddress(grpc->address());
  ASSIGN_OR_RETURN(http, HttpServer::Start({.address = config.server.http_address,
                                            .threads = config.server.http_threads},
                                           metrics, [this]() -> Readiness {
                                             if (!migrated)
                                               return {false, "waiting for the database"};
                                             if (!database.up())
                                               return {false, "the database is away"};
                                             return {true, "ready"};
                                           }));
  const nlohmann::ordered_json endpoints = {
      {"grpc_address", grpc->address()}, {"http_address", http->address()}, {"pid", getpid()}};
  RETURN_IF_ERROR(
      WriteFileAtomically(config.node.state_dir + "/endpoints.json", endpoints.dump() + "\n"));
  LogInfo("listening", {{"grpc", grpc->address()}, {"http", http->address()}});
  return absl::OkStatus();
}

// Until the database is there the daemon answers DATABASE_UNAVAILABLE. A signal ends the wait.
absl::Status Daemon::Rep::BringUpDatabase() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  const timespec pause{.tv_sec = kDatabasePause.count() / 1000};
  bool said = false;
  while (true) {
    const absl::Status status = database.Migrate();
    metrics.db_up.Set(status.ok() ? 1 : 0);
    if (status.ok()) return status;
    if (!HasReason(status, Reason::kDatabaseUnavailable)) return status;
    if (!said) LogWarning("database_away", {{"error", status}});
    said = true;
    NotifyStatus("waiting for the database: " + std::string(status.message()));
    NotifyExtendTimeout(kExtendStart);
    NotifyWatchdog();
    if (sigtimedwait(&signals, nullptr, &pause) > 0) {
      return absl::CancelledError("stopped while waiting for the database");
    }
  }
}

void Daemon::Rep::LookAround() {
  NotifyWatchdog();
  metrics.db_up.Set(database.up() ? 1 : 0);
  const std::vector<Instance> instances = engines.List();
  const auto ready = std::ranges::count_if(
      instances, [](const Instance& instance) { return instance.state == InstanceState::kReady; });
  NotifyStatus("models ready: " + std::to_string(ready) + ", files in flight: " +
               std::to_string(static_cast<int64_t>(metrics.download_active.Value())) +
               (database.up() ? "" : "; the database is away"));
}

Daemon::Daemon(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

Daemon::~Daemon() = default;

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Start(const Config& config) {
  SetLogLevel(LogLevelOf(config.log.level));
  if (access(config.engine.program.c_str(), X_OK) != 0) {
    return absl::FailedPreconditionError("engine.program \"" + config.engine.program +
                                         "\" is not a program that can be run");
  }
  RETURN_IF_ERROR(MakeDirectories(config.node.state_dir));
  absl::StatusOr<FileLock> lock = FileLock::TryAcquire(config.node.state_dir + "/lock");
  if (absl::IsUnavailable(lock.status())) {
    return absl::FailedPreconditionError("another modeld runs with node.state_dir " +
                                         config.node.state_dir);
  }
  RETURN_IF_ERROR(lock.status());
  ASSIGN_OR_RETURN(std::string node_id, NodeId(config.node.state_dir));
  auto rep = std::make_unique<Rep>(config, *std::move(lock), std::move(node_id));
  rep->metrics.build_info
      .Add({{"version", MODELD_VERSION}, {"commit", MODELD_COMMIT}, {"libtorch", MODELD_LIBTORCH}})
      .Set(1);
  LogInfo("starting", {{"version", MODELD_VERSION},
                       {"commit", MODELD_COMMIT},
                       {"node", config.node.name},
                       {"node_id", rep->node_id}});
  RETURN_IF_ERROR(rep->Listen());
  return std::unique_ptr<Daemon>(new Daemon(std::move(rep)));
}

absl::Status Daemon::Run() {
  Rep& rep = *rep_;
  absl::Status status = rep.BringUpDatabase();
  if (status.ok()) {
    rep.listener = std::make_unique<ChangeListener>(
        DatabaseOptions(rep.config),
        [&rep](const std::string& what) { rep.changes.Publish(what); });
    rep.loader = std::make_unique<Loader>(LoaderOptions(rep.config, rep.node_id),
                                          Loader::Parts{.tables = rep.tables,
                                                        .registry = rep.registry,
                                                        .nodes = *rep.nodes,
                                                        .hub = rep.hub,
                                                        .pool = rep.pool,
                                                        .engines = rep.engines,
                                                        .events = rep.events,
                                                        .changes = rep.changes,
                                                        .live = rep.live,
                                                        .metrics = rep.metrics,
                                                        .clock = Clock::Real()});
    rep.migrated = true;
    rep.grpc->SetServing(true);
    NotifyReady();
    LogInfo("ready");
    WaitForStop();
  } else if (!absl::IsCancelled(status)) {
    LogError("database_unusable", {{"error", status}});
    NotifyStatus(std::string(status.message()));
  }
  Drain();
  return absl::IsCancelled(status) ? absl::OkStatus() : status;
}

void Daemon::WaitForStop() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  const seconds wanted = std::chrono::duration_cast<seconds>(
      WatchdogInterval().value_or(std::chrono::microseconds(2 * kTick)) / 2);
  const timespec tick{.tv_sec = std::clamp<int64_t>(wanted.count(), 1, kTick.count())};
  while (true) {
    rep_->LookAround();
    const int signal = sigtimedwait(&signals, nullptr, &tick);
    if (signal == SIGTERM || signal == SIGINT) return;
  }
}

// New calls are refused, running ones get their time, downloads stop where they are and go on at
// the next start, engines end.
void Daemon::Drain() {
  NotifyStopping();
  LogInfo("stopping");
  const seconds grace(rep_->config.server.drain_seconds);
  NotifyExtendTimeout(2 * grace + kExtendStart);
  const bool ended = rep_->grpc->Shutdown(grace);
  rep_->loader.reset();
  rep_->listener.reset();
  if (!ended) {
    LogWarning("client_does_not_read", {{"grace_seconds", grace.count()}});
    std::_Exit(0);  // engines end with our end of their control sockets
  }
  LogInfo("stopped");
}

std::string VersionText() {
  return std::string("modeld ") + MODELD_VERSION + " (" + MODELD_COMMIT + ")";
}

}  // namespace modeld
