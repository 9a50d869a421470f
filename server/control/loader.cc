#include "server/control/loader.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/control/attempt.h"
#include "server/control/gauges.h"
#include "server/control/instance_rows.h"
#include "server/control/paused_downloads.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr char kOperationTopic[] = "operation:";
// News come in bursts; one look serves them all.
constexpr milliseconds kLookPause{50};
constexpr std::chrono::seconds kFollowEvery{5};

// Waiting may help, and trying again costs nothing that was done. A hub that is not asked since we
// are offline promises nothing.
bool IsTemporary(const absl::Status& status) {
  if (HasReason(status, Reason::kHubUnavailable)) return DetailsOf(status).retry_after.has_value();
  return absl::IsUnavailable(status) && !HasReason(status, Reason::kEngineLost);
}

}  // namespace

struct Loader::Rep {
  struct Running {
    std::unique_ptr<Attempt> attempt;
    int64_t turn = 0;  // order of the claims
    bool ended = false;
    int64_t settled_epoch = 0;               // of the lease that the last write named
    std::optional<Operation> next;           // the row as it was claimed again meanwhile
    steady_clock::time_point followed_time;  // when its reservation was lowered last
    std::jthread thread;                     // last, so that it ends before what it uses
  };
  // Wakes one thread; `given` is guarded by `mutex`.
  struct Signal {
    CondVar condition;
    bool given = false;
  };
  // How often and since when an operation failed for a while only.
  struct Retries {
    int count = 0;
    steady_clock::time_point since;
    int64_t bytes_done = 0;
  };
  // A model that is not started again, on its way to the database.
  struct GivenUp {
    int64_t model_id = 0;
    std::string model_name;
    absl::Status error;
  };

  Rep(const Options& o, const Parts& p)
      : options(o),
        parts(p),
        instance_rows(p.tables, p.engines),
        paused(
            {.node_id = o.node_id, .space_check = o.space_check},
            {.tables = p.tables, .registry = p.registry, .metrics = p.metrics, .clock = p.clock}) {}

  void Reconcile(std::stop_token stop);
  bool TakeBack();
  void HearEngines();
  void RecordCrash(const Engines::Event& event);
  bool CrashesTooOften(int64_t model_id);
  void WriteGivenUp();
  void RestoreLoads();
  std::set<std::string> RunningModels();
  std::shared_ptr<Running> LowestDownload();
  void Claim();
  bool Begin(const Operation& operation);
  void Reap();

  void Work(Running& running);
  bool WaitForTurn(const Running& running);
  absl::Status Settle(Running& at, const absl::Status& result);
  absl::Status GiveBackOrFail(Running& at, const absl::Status& error);
  absl::Status End(Running& at, OperationState state, const absl::Status& error);
  absl::Status WriteLast(Running& at,
                         const std::function<absl::Status(const OperationLease&)>& write);
  absl::Status NoLongerWanted(const Operation& operation);

  void Pulse(std::stop_token stop);
  void PulseOne(Running& running);
  void Keep(std::stop_token stop);
  // Until `signal` was given, which it takes, or `deadline`, or the end.
  void WaitFor(Signal& signal, steady_clock::time_point deadline);
  void Give(Signal& signal);

  const Options options;
  const Parts parts;
  InstanceRows instance_rows;

  Mutex mutex;
  Signal wake;         // of Reconcile
  Signal pulse;        // of Pulse
  Signal end;          // of Keep, and between two looks of Reconcile
  CondVar turn_ended;  // of attempts that wait for each other
  bool stopping ABSL_GUARDED_BY(mutex) = false;
  int64_t next_turn ABSL_GUARDED_BY(mutex) = 1;
  std::map<std::string, std::shared_ptr<Running>> running ABSL_GUARDED_BY(mutex);  // by name
  std::map<std::string, Retries> retries ABSL_GUARDED_BY(mutex);                   // by name
  std::map<int64_t, std::deque<steady_clock::time_point>> crashes ABSL_GUARDED_BY(mutex);
  std::set<std::string> restores ABSL_GUARDED_BY(mutex);  // operations that this loop asked for

  // Of Reconcile()'s thread.
  PausedDownloads paused;
  bool taken_back = false;
  bool restore_due = true;
  steady_clock::time_point restored_time;
  std::vector<GivenUp> given_up;

  std::stop_source shutdown;
  std::vector<std::unique_ptr<Changes::Subscription>> subscriptions;
  std::vector<std::jthread> threads;  // last, so that they end before what they use
};

Loader::Loader(const Options& options, const Parts& parts)
    : rep_(std::make_unique<Rep>(options, parts)) {
  Rep* rep = rep_.get();
  parts.events.SetListener([this] { Wake(); });
  rep->subscriptions.push_back(
      parts.changes.SubscribeNamed("", [this, rep](const std::string& what) {
        if (what.starts_with(kOperationTopic)) {
          // Our own attempts tell their progress all the time; what is new about them are wishes.
          MutexLock lock(rep->mutex);
          if (rep->running.contains(what.substr(std::size(kOperationTopic) - 1))) return;
        }
        if (what.empty() || what.starts_with(kOperationTopic)) Wake();
      }));
  rep->subscriptions.push_back(parts.changes.Subscribe("wish:", [rep] { rep->Give(rep->pulse); }));
  const std::stop_token stop = rep->shutdown.get_token();
  rep->threads.emplace_back([rep, stop] { rep->Reconcile(stop); });
  rep->threads.emplace_back([rep, stop] { rep->Pulse(stop); });
  rep->threads.emplace_back([rep, stop] { rep->Keep(stop); });
}

Loader::~Loader() {
  rep_->parts.events.SetListener({});
  rep_->subscriptions.clear();
  rep_->shutdown.request_stop();
  std::map<std::string, std::shared_ptr<Rep::Running>> left;
  {
    MutexLock lock(rep_->mutex);
    rep_->stopping = true;
    for (Rep::Signal* signal : {&rep_->wake, &rep_->pulse, &rep_->end}) {
      signal->condition.NotifyAll();
    }
  }
  rep_->threads.clear();  // joins: nothing is begun any more
  {
    MutexLock lock(rep_->mutex);
    left = rep_->running;
  }
  for (const auto& [name, running] : left) running->attempt->Stop(Attempt::Intent::kShutdown);
  for (const auto& [name, running] : left) {
    if (running->thread.joinable()) running->thread.join();
    rep_->parts.live.Remove(name);
  }
  // The engines end next, with the process that they belong to.
  if (!rep_->parts.tables.database.up()) return;
  const absl::Status gone = rep_->parts.tables.instances.DeleteNode(rep_->options.node_id);
  if (!gone.ok()) LogDebug("instances_not_deleted", {{"error", gone}});
}

void Loader::Wake() { rep_->Give(rep_->wake); }

void Loader::Rep::WaitFor(Signal& signal, steady_clock::time_point deadline) {
  MutexLock lock(mutex);
  while (!signal.given && !stopping && steady_clock::now() < deadline) {
    signal.condition.WaitUntil(mutex, deadline);
  }
  signal.given = false;
}

void Loader::Rep::Give(Signal& signal) {
  MutexLock lock(mutex);
  signal.given = true;
  signal.condition.NotifyAll();
}

void Loader::Rep::Reconcile(std::stop_token stop) {
  while (!stop.stop_requested()) {
    Reap();
    HearEngines();
    if (taken_back || TakeBack()) {
      const absl::Status rows = instance_rows.Sync();
      if (!rows.ok()) LogDebug("instances_not_written", {{"error", rows}});
      WriteGivenUp();
      RestoreLoads();
      paused.Look(RunningModels());
      Claim();
    }
    WaitFor(wake, steady_clock::now() + options.tick);
    WaitFor(end, steady_clock::now() + kLookPause);
  }
}

// What this node left behind when it ended: its operations are taken up again, its engines are
// gone.
bool Loader::Rep::TakeBack() {
  absl::Status status = parts.tables.operations.Reclaim(options.node_id);
  if (status.ok()) status = parts.tables.instances.DeleteNode(options.node_id);
  taken_back = status.ok();
  if (!taken_back) LogDebug("operations_not_taken_back", {{"error", status}});
  return taken_back;
}

void Loader::Rep::HearEngines() {
  for (const Engines::Event& event : parts.events.Take()) {
    if (!event.gone) continue;
    restore_due = true;
    // One that died while it was loaded is the operation's business.
    if (!event.error.ok() && event.instance.state != InstanceState::kLoading) RecordCrash(event);
  }
}

bool Loader::Rep::CrashesTooOften(int64_t model_id) {
  const auto now = parts.clock.Steady();
  MutexLock lock(mutex);
  auto& times = crashes[model_id];
  times.push_back(now);
  while (!times.empty() && now - times.front() > options.crash_window) times.pop_front();
  return std::ssize(times) >= options.crashes_max;
}

void Loader::Rep::RecordCrash(const Engines::Event& event) {
  const Instance& instance = event.instance;
  LogWarning(
      "engine_lost",
      {{"model", instance.model_name}, {"instance", instance.instance_id}, {"error", event.error}});
  if (!CrashesTooOften(instance.model_id)) return;
  given_up.push_back(
      {.model_id = instance.model_id,
       .model_name = instance.model_name,
       .error = WithContext(event.error, "the engine ended " + std::to_string(options.crashes_max) +
                                             " times within " +
                                             std::to_string(options.crash_window.count()) +
                                             " s and is not started again")});
}

void Loader::Rep::WriteGivenUp() {
  while (!given_up.empty()) {
    const GivenUp& model = given_up.front();
    absl::Status status = parts.tables.loads.SetWanted(model.model_id, options.node_id, false);
    if (status.ok()) {
      Operation failed;
      failed.name = RandomUuid();
      failed.kind = OperationKind::kLoad;
      failed.model_id = model.model_id;
      failed.model_name = model.model_name;
      failed.node_id = options.node_id;
      failed.state = OperationState::kFailed;
      failed.error = model.error;
      status =
          parts.tables.operations
              .Start(
                  failed,
                  [](const std::vector<Operation>&) -> absl::StatusOr<OperationsTable::Decision> {
                    return OperationsTable::Decision{.insert = true};
                  })
              .status();
    }
    if (HasReason(status, Reason::kDatabaseUnavailable)) return;
    LogWarning("model_given_up", {{"model", model.model_name}, {"error", model.error}});
    given_up.erase(given_up.begin());
  }
}

// Asks for what is wanted in memory and is not there: after a start, and after an engine died.
void Loader::Rep::RestoreLoads() {
  const auto now = steady_clock::now();
  if (!restore_due && now - restored_time < options.heartbeat) return;
  const auto loads = parts.tables.loads.List(options.node_id);
  if (!loads.ok()) return;
  restored_time = now;
  restore_due = false;
  std::set<int64_t> present;
  for (const Instance& instance : parts.engines.List()) present.insert(instance.model_id);
  for (const Load& load : *loads) {
    if (!load.wanted || present.contains(load.model_id)) continue;
    const auto model = parts.tables.models.GetById(load.model_id);
    if (!model.ok()) continue;
    Operation operation;
    operation.name = RandomUuid();
    operation.kind = OperationKind::kLoad;
    operation.model_id = load.model_id;
    operation.model_name = model->model_name;
    operation.node_id = options.node_id;
    operation.spec.load = load.spec;
    operation.spec.pinned = load.pinned;
    operation.spec.priority = 100;
    const auto started = parts.tables.operations.Start(
        operation,
        [](const std::vector<Operation>& active) -> absl::StatusOr<OperationsTable::Decision> {
          for (const Operation& other : active) {
            if (other.kind == OperationKind::kDownload) continue;
            return OperationsTable::Decision{.join = other.name};
          }
          return OperationsTable::Decision{.insert = true};
        });
    if (!started.ok()) {
      restore_due = true;
      LogDebug("load_not_restored", {{"model", model->model_name}, {"error", started.status()}});
    } else if (started->name == operation.name) {
      MutexLock lock(mutex);
      restores.insert(operation.name);
      LogInfo("load_restored", {{"model", model->model_name}, {"operation", operation.name}});
    }
  }
}

std::set<std::string> Loader::Rep::RunningModels() {
  std::set<std::string> models;
  MutexLock lock(mutex);
  for (const auto& [name, at] : running) {
    if (!at->ended) models.insert(at->attempt->operation().model_name);
  }
  return models;
}

// Of the downloads at work the one that matters least: the lowest priority, the youngest of those.
std::shared_ptr<Loader::Rep::Running> Loader::Rep::LowestDownload() {
  std::shared_ptr<Running> lowest;
  MutexLock lock(mutex);
  for (const auto& [name, at] : running) {
    const Attempt& attempt = *at->attempt;
    if (at->ended || attempt.operation().kind != OperationKind::kDownload ||
        attempt.intent() != Attempt::Intent::kNone) {
      continue;
    }
    if (!lowest || std::pair(attempt.priority(), -at->turn) <
                       std::pair(lowest->attempt->priority(), -lowest->turn)) {
      lowest = at;
    }
  }
  return lowest;
}

void Loader::Rep::Claim() {
  OperationsTable::ClaimRoom room = {.downloads = options.attempts_max,
                                     .others = options.attempts_max};
  {
    MutexLock lock(mutex);
    for (const auto& [name, at] : running) {
      const bool download = at->attempt->operation().kind == OperationKind::kDownload;
      --(download ? room.downloads : room.others);
    }
  }
  room.others = std::max<int64_t>(room.others, 0);
  // Where all places are taken, a download of a higher priority takes the place of the lowest.
  std::shared_ptr<Running> lowest;
  if (room.downloads <= 0) {
    lowest = LowestDownload();
    room.downloads = lowest ? 1 : 0;
    if (lowest) room.downloads_above = lowest->attempt->priority();
  }
  const auto claimed = parts.tables.operations.Claim(options.node_id, options.lease, room);
  if (!claimed.ok()) {
    LogDebug("operations_not_claimed", {{"error", claimed.status()}});
    return;
  }
  for (const Operation& operation : *claimed) {
    const bool begun = Begin(operation);
    if (begun && lowest && operation.kind == OperationKind::kDownload) {
      lowest->attempt->Stop(Attempt::Intent::kYield);
    }
  }
}

// False for one that is at work already.
bool Loader::Rep::Begin(const Operation& operation) {
  MutexLock lock(mutex);
  const auto found = running.find(operation.name);
  if (found != running.end()) {
    // Its lease lapsed while the database was away, and nobody but us could take it; or it has just
    // been settled, and Reap() begins the next attempt.
    found->second->attempt->AdoptEpoch(operation.epoch);
    found->second->next = operation;
    return false;
  }
  const bool ours = restores.contains(operation.name) || retries.contains(operation.name);
  if (operation.kind == OperationKind::kLoad && !ours) {
    crashes.erase(operation.model_id);  // somebody asked for it again
  }
  LogInfo("operation_begun", {{"operation", operation.name},
                              {"kind", OperationKindName(operation.kind)},
                              {"model", operation.model_name}});
  auto begun = std::make_shared<Running>();
  begun->turn = next_turn++;
  begun->attempt = std::make_unique<Attempt>(
      Attempt::Options{.lease = options.lease,
                       .drain = options.drain,
                       .load_timeout_base = options.load_timeout_base,
                       .load_timeout_per_gib = options.load_timeout_per_gib},
      Attempt::Parts{.tables = parts.tables,
                     .registry = parts.registry,
                     .hub = parts.hub,
                     .pool = parts.pool,
                     .engines = parts.engines,
                     .instance_rows = instance_rows,
                     .live = parts.live,
                     .clock = parts.clock},
      operation);
  running[operation.name] = begun;
  begun->thread = std::jthread([this, at = begun.get()] { Work(*at); });
  return true;
}

// Joins the threads of attempts that have ended.
void Loader::Rep::Reap() {
  std::vector<std::shared_ptr<Running>> ended;
  {
    MutexLock lock(mutex);
    for (auto at = running.begin(); at != running.end();) {
      if (at->second->ended) {
        ended.push_back(std::move(at->second));
        at = running.erase(at);
      } else {
        ++at;
      }
    }
  }
  for (const auto& at : ended) {
    at->thread.join();
    if (at->next && at->next->epoch > at->settled_epoch) Begin(*at->next);
  }
}

// One attempt a model at a time; only an unload does not wait for a download.
bool Loader::Rep::WaitForTurn(const Running& waiting) {
  const Operation& mine = waiting.attempt->operation();
  const std::stop_callback on_stop(waiting.attempt->stop_token(), [this] {
    MutexLock lock(mutex);
    turn_ended.NotifyAll();
  });
  const auto before_me = [&](const Running& other) {
    const Operation& theirs = other.attempt->operation();
    const bool apart =
        (mine.kind == OperationKind::kUnload) != (theirs.kind == OperationKind::kUnload) &&
        (mine.kind == OperationKind::kDownload || theirs.kind == OperationKind::kDownload);
    return !other.ended && other.turn < waiting.turn && theirs.model_id == mine.model_id && !apart;
  };
  MutexLock lock(mutex);
  while (!waiting.attempt->stop_token().stop_requested()) {
    bool first = true;
    for (const auto& [name, other] : running) first &= !before_me(*other);
    if (first) return true;
    turn_ended.Wait(mutex);
  }
  return false;
}

void Loader::Rep::Work(Running& at) {
  Attempt& attempt = *at.attempt;
  const absl::Status result =
      WaitForTurn(at) ? attempt.Run() : absl::CancelledError("stopped before it began");
  const absl::Status settled = Settle(at, result);
  if (absl::IsAborted(settled)) {
    LogWarning("lease_lost", {{"operation", attempt.operation().name}, {"error", settled}});
  } else if (!settled.ok() && !absl::IsCancelled(settled)) {
    LogError("operation_not_settled",
             {{"operation", attempt.operation().name}, {"error", settled}});
  }
  parts.live.Remove(attempt.operation().name);
  {
    MutexLock lock(mutex);
    at.ended = true;
    turn_ended.NotifyAll();
  }
  Give(wake);
  parts.changes.Publish(kOperationTopic + attempt.operation().name);
}

// The write that ends an attempt, under the lease as it is by then.
absl::Status Loader::Rep::WriteLast(
    Running& at, const std::function<absl::Status(const OperationLease&)>& write) {
  while (true) {
    const OperationLease lease = at.attempt->lease();
    absl::Status status = Persist(parts.clock, shutdown.get_token(), [&] { return write(lease); });
    // Claimed again by ourselves since the lease was read.
    if (absl::IsAborted(status) && at.attempt->lease().epoch != lease.epoch) continue;
    MutexLock lock(mutex);
    at.settled_epoch = lease.epoch;
    return status;
  }
}

absl::Status Loader::Rep::End(Running& at, OperationState state, const absl::Status& error) {
  Attempt& attempt = *at.attempt;
  const Operation& operation = attempt.operation();
  LogInfo("operation_ended", {{"operation", operation.name},
                              {"kind", OperationKindName(operation.kind)},
                              {"model", operation.model_name},
                              {"state", OperationStateName(state)},
                              {"error", error}});
  if (operation.kind == OperationKind::kLoad && state != OperationState::kSucceeded) {
    RETURN_IF_ERROR(NoLongerWanted(operation));
  }
  {
    MutexLock lock(mutex);
    retries.erase(operation.name);
    restores.erase(operation.name);
  }
  OperationProgress progress = attempt.progress();
  progress.bytes_per_second = 0;
  progress.eta.reset();
  return WriteLast(at, [&](const OperationLease& lease) {
    return parts.tables.operations.Finish(lease, state, error, progress);
  });
}

// A load that came to nothing is not tried again; what it was to replace goes on.
absl::Status Loader::Rep::NoLongerWanted(const Operation& operation) {
  for (const Instance& instance : parts.engines.List()) {
    if (instance.model_id == operation.model_id) return absl::OkStatus();
  }
  return Persist(parts.clock, shutdown.get_token(), [&] {
    return parts.tables.loads.SetWanted(operation.model_id, operation.node_id, false);
  });
}

absl::Status Loader::Rep::Settle(Running& at, const absl::Status& result) {
  Attempt& attempt = *at.attempt;
  if (result.ok()) return End(at, OperationState::kSucceeded, result);
  switch (attempt.intent()) {
    case Attempt::Intent::kShutdown:
      return result;
    case Attempt::Intent::kLeaseLost:
      return absl::AbortedError("another owner has it");
    case Attempt::Intent::kCancel:
      return End(at, OperationState::kCancelled,
                 absl::CancelledError("the operation was cancelled by request"));
    case Attempt::Intent::kPause:
      LogInfo("operation_paused", {{"operation", attempt.operation().name}});
      return WriteLast(at, [&](const OperationLease& lease) {
        return parts.tables.operations.Pause(lease, attempt.progress());
      });
    case Attempt::Intent::kYield:
      LogInfo("operation_yielded", {{"operation", attempt.operation().name}});
      return WriteLast(at, [&](const OperationLease& lease) {
        return parts.tables.operations.GiveBack(lease, milliseconds(0), absl::OkStatus(),
                                                attempt.progress());
      });
    case Attempt::Intent::kNone:
      break;
  }
  if (absl::IsAborted(result)) return result;
  if (HasReason(result, Reason::kEngineLost)) {
    // It died while it was loading; that may be the machine's fault once, but not always.
    if (!CrashesTooOften(attempt.operation().model_id)) return GiveBackOrFail(at, result);
    return End(at, OperationState::kFailed, result);
  }
  // Space that it was promised is gone; what was never there is the caller's to make.
  if (HasReason(result, Reason::kInsufficientDisk) && attempt.had_space()) {
    LogWarning("operation_waits_for_space",
               {{"operation", attempt.operation().name}, {"error", result}});
    return WriteLast(at, [&](const OperationLease& lease) {
      return parts.tables.operations.WaitForSpace(lease, result, attempt.progress());
    });
  }
  if (IsTemporary(result)) return GiveBackOrFail(at, result);
  return End(at, OperationState::kFailed, result);
}

absl::Status Loader::Rep::GiveBackOrFail(Running& at, const absl::Status& error) {
  const Attempt& attempt = *at.attempt;
  const auto now = parts.clock.Steady();
  const int64_t bytes_done = attempt.progress().bytes_done;
  milliseconds delay = options.retry_base;
  bool give_up = false;
  {
    MutexLock lock(mutex);
    Retries& retry = retries[attempt.operation().name];
    if (retry.count == 0 || bytes_done > retry.bytes_done) {
      retry = {.count = 0, .since = now, .bytes_done = bytes_done};
    }
    for (int i = 0; i < retry.count && delay < options.retry_max; ++i) delay *= 2;
    delay = std::min(delay, options.retry_max);
    ++retry.count;
    give_up = now - retry.since >= options.give_up_after;
  }
  if (give_up) return End(at, OperationState::kFailed, error);
  // Jitter, so that many that failed together do not come back together.
  delay = milliseconds(
      static_cast<int64_t>(static_cast<double>(delay.count()) * (0.75 + 0.5 * RandomUnit())));
  LogWarning(
      "operation_will_be_tried_again",
      {{"operation", attempt.operation().name}, {"delay_ms", delay.count()}, {"error", error}});
  return WriteLast(at, [&](const OperationLease& lease) {
    return parts.tables.operations.GiveBack(lease, delay, error, attempt.progress());
  });
}

// Once a second: progress to the database, which renews the lease and says what is wished.
void Loader::Rep::Pulse(std::stop_token stop) {
  while (!stop.stop_requested()) {
    WaitFor(pulse, steady_clock::now() + options.tick);
    std::vector<std::shared_ptr<Running>> now;
    {
      MutexLock lock(mutex);
      for (const auto& [name, at] : running) {
        if (!at->ended) now.push_back(at);
      }
    }
    for (const auto& at : now) {
      if (stop.stop_requested()) return;
      PulseOne(*at);
    }
    parts.metrics.db_up.Set(parts.tables.database.up() ? 1 : 0);
  }
}

void Loader::Rep::PulseOne(Running& at) {
  Attempt& attempt = *at.attempt;
  const auto wishes = parts.tables.operations.WriteProgress(attempt.lease(), attempt.progress());
  if (absl::IsAborted(wishes.status())) {
    // Unless it has just ended by itself; then nobody listens any more.
    attempt.Stop(Attempt::Intent::kLeaseLost);
    return;
  }
  if (!wishes.ok()) return;  // the database is away; the work goes on
  attempt.Obey(*wishes);
  if (steady_clock::now() - at.followed_time < kFollowEvery) return;
  at.followed_time = steady_clock::now();
  const absl::Status followed = attempt.FollowSpace();
  if (!followed.ok()) LogDebug("reservation_not_changed", {{"error", followed}});
}

// Heartbeats and gauges.
void Loader::Rep::Keep(std::stop_token stop) {
  Gauges gauges({.registry = parts.registry, .engines = parts.engines, .metrics = parts.metrics});
  auto next_heartbeat = steady_clock::now();
  auto next_gauges = steady_clock::now();
  while (!stop.stop_requested()) {
    const auto now = steady_clock::now();
    if (now >= next_heartbeat) {
      const absl::Status beat = parts.nodes.Heartbeat();
      if (!beat.ok()) LogDebug("heartbeat_not_written", {{"error", beat}});
      next_heartbeat = now + options.heartbeat;
    }
    if (now >= next_gauges) {
      gauges.Update();
      next_gauges = now + options.gauges;
    }
    WaitFor(end, std::min(next_heartbeat, next_gauges));
  }
}

}  // namespace modeld
