// What Engines does with one instance, from its start to its end.
#include <grpcpp/channel.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engines/engine_client.h"
#include "server/engines/engines_rep.h"
#include "server/engines/stats_metrics.h"
#include "server/wire/convert.h"

namespace modeld {
namespace {

namespace enginepb = modeld::engine::v1;
using std::chrono::milliseconds;

// Running requests of an instance that was replaced.
constexpr milliseconds kReplaceDrain{60'000};
constexpr milliseconds kConnectPoll{20};
// How long a call's error may come before the end of the process that caused it.
constexpr milliseconds kDeathGrace{1'000};
constexpr milliseconds kLastStats{500};

void FillMemory(const google::protobuf::RepeatedPtrField<enginepb::DeviceMemory>& devices,
                std::vector<DeviceBytes>& out) {
  out.clear();
  for (const auto& memory : devices) {
    out.push_back({memory.device(), memory.weights_bytes(), memory.kv_cache_bytes(),
                   memory.workspace_bytes(), memory.slack_bytes()});
  }
}

enginepb::LoadRequest RequestOf(const EngineLoad& load, const Engines::Options& options) {
  enginepb::LoadRequest request;
  request.set_model_name(load.model_name);
  request.set_snapshot_path(load.snapshot_path);
  request.set_dtype(load.spec.dtype);
  // One device was chosen: the engine need not choose again.
  const bool one = load.placement.budget_bytes.size() == 1;
  if (one) request.set_device_map(load.placement.budget_bytes.begin()->first);
  if (!one) {
    request.mutable_device_map_entries()->insert(load.placement.device_map_entries.begin(),
                                                 load.placement.device_map_entries.end());
  }
  request.set_max_context(load.placement.max_context);
  request.mutable_budget_bytes()->insert(load.placement.budget_bytes.begin(),
                                         load.placement.budget_bytes.end());
  request.set_trust_remote_code(load.trust_remote_code);
  request.set_threads(static_cast<int32_t>(options.threads));
  *request.mutable_limits() = ToProto(options.limits);
  request.set_prefix_cache_off(!options.prefix_cache);
  return request;
}

absl::Status Lost(const EngineInstance& instance) {
  return Unavailable(
      Reason::kEngineLost,
      absl::StrCat("the engine of ", instance.shown.model_name, " (pid ", instance.shown.pid,
                   ") ended by itself: ", instance.process->ExitText()),
      kRetryAfter);
}

}  // namespace

absl::Status Engines::Rep::Enter(const EngineLoad& load, const InstancePtr& instance) {
  RETURN_IF_ERROR(started);
  Instance& shown = instance->shown;
  shown.instance_id = RandomUuid();
  shown.model_id = load.model_id;
  shown.model_name = load.model_name;
  shown.node_id = load.node_id;
  shown.commit = load.commit;
  shown.spec = load.spec;
  shown.create_time = clock.Now();
  instance->pinned = load.pinned;
  instance->budget_bytes = load.placement.budget_bytes;
  instance->last_used_ns = Nanoseconds(clock.Steady());
  MutexLock lock(mutex);
  if (stopping) return absl::CancelledError("the daemon stops");
  // Another load may have taken the room since Plan().
  const std::vector<PlacedModel> placed = PlacedLocked();
  for (const DeviceRoom& room : RoomsLocked()) {
    const auto wanted = instance->budget_bytes.find(room.name);
    const int64_t free = FreeBytes(room, placed);
    if (wanted == instance->budget_bytes.end() || wanted->second <= free) continue;
    return InsufficientBytes(Reason::kInsufficientDeviceMemory, room.name, wanted->second,
                             std::max<int64_t>(free, 0));
  }
  instances[shown.instance_id] = instance;
  PublishLocked(load.model_name);
  Tell(*instance);
  return absl::OkStatus();
}

absl::Status Engines::Rep::Start(const EngineLoad& load, const InstancePtr& instance,
                                 const OnLoadProgress& on_progress, std::stop_token stop) {
  const auto begin = std::chrono::steady_clock::now();
  const std::weak_ptr<EngineInstance> weak = instance;
  ASSIGN_OR_RETURN(std::unique_ptr<EngineProcess> process,
                   EngineProcess::Start({.program = options.program,
                                         .socket_dir = options.socket_dir,
                                         .instance_id = instance->shown.instance_id,
                                         .model_name = load.model_name},
                                        [this, weak] {
                                          if (const InstancePtr dead = weak.lock()) {
                                            undertaker.Run([this, dead] { HandleExit(dead); });
                                          }
                                        }));
  {
    MutexLock lock(mutex);
    instance->process = std::move(process);
    instance->shown.pid = instance->process->pid();
    instance->channel = MakeEngineChannel(instance->process->socket_path());
    Tell(*instance);
  }
  RETURN_IF_ERROR(Connect(*instance, begin + load.timeout, stop));
  EngineClient client(instance->channel);
  const auto left = begin + load.timeout - std::chrono::steady_clock::now();
  const auto ready =
      client.Load(RequestOf(load, options),
                  std::chrono::system_clock::now() + std::chrono::duration_cast<milliseconds>(left),
                  on_progress, stop);
  if (!ready.ok()) {
    const bool may_be_dead = absl::IsUnavailable(ready.status()) && !stop.stop_requested();
    if (may_be_dead && instance->process->WaitExit(kDeathGrace)) return Lost(*instance);
    return ready.status();
  }
  std::vector<InstancePtr> replaced;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  RETURN_IF_ERROR(BecomeReady(instance, *ready, seconds, replaced));
  LogInfo("model_loaded", {{"model", load.model_name},
                           {"pid", instance->shown.pid},
                           {"seconds", seconds},
                           {"max_context", ready->max_context()}});
  for (const InstancePtr& old : replaced) {
    const auto retire = [this, old] {
      Drain(*old, kReplaceDrain);
      Bury(old, absl::OkStatus(), kEndGrace);
    };
    if (!drains.Run(retire)) retire();
  }
  return absl::OkStatus();
}

absl::Status Engines::Rep::Connect(EngineInstance& instance,
                                   std::chrono::steady_clock::time_point deadline,
                                   std::stop_token stop) {
  while (true) {
    const auto until = std::chrono::system_clock::now() + kConnectPoll;
    if (instance.channel->WaitForConnected(until)) return absl::OkStatus();
    if (stop.stop_requested()) return absl::CancelledError("the load was stopped");
    if (instance.process->exited()) return Lost(instance);
    if (std::chrono::steady_clock::now() >= deadline) {
      return absl::DeadlineExceededError(
          absl::StrCat("the engine of ", instance.shown.model_name, " did not listen in time"));
    }
  }
}

absl::Status Engines::Rep::BecomeReady(const InstancePtr& instance, const enginepb::Ready& ready,
                                       double load_seconds, std::vector<InstancePtr>& replaced) {
  MutexLock lock(mutex);
  // Whoever comes first decides: the undertaker leaves instances that are LOADING to us.
  if (instance->process->exited()) return Lost(*instance);
  if (stopping || instance->ending != Ending::kNone)
    return absl::CancelledError("the daemon stops");
  Instance& shown = instance->shown;
  const std::string& model_name = shown.model_name;
  for (const auto& [id, other] : instances) {
    if (other->shown.model_name != model_name || other->shown.state != InstanceState::kReady)
      continue;
    other->shown.state = InstanceState::kDraining;
    other->ending = Ending::kClaimed;
    Tell(*other);
    replaced.push_back(other);
  }
  shown.state = InstanceState::kReady;
  shown.load_seconds = load_seconds;
  shown.spec.max_context = ready.max_context();
  FillMemory(ready.devices(), shown.devices);
  instance->sequences_max = ready.sequences_max();
  instance->last_used_ns = Nanoseconds(clock.Steady());
  instance->counters = std::make_unique<StatsMetrics>(metrics, model_name);
  instance->stats = std::jthread([this, raw = instance.get()](std::stop_token stop) {
    EngineClient(raw->channel)
        .StreamStats([&](const enginepb::StatsResponse& stats) { ApplyStats(*raw, stats); }, stop);
  });
  PublishLocked(model_name);
  Tell(*instance);
  return absl::OkStatus();
}

void Engines::Rep::ApplyStats(EngineInstance& instance, const enginepb::StatsResponse& stats) {
  instance.counters->Apply(stats);
  MutexLock lock(mutex);
  const Instance before = instance.shown;
  Instance& shown = instance.shown;
  if (!stats.devices().empty()) FillMemory(stats.devices(), shown.devices);
  shown.active_requests = stats.active_requests();
  shown.waiting_requests = stats.waiting_requests();
  instance.kv_cache_used_ratio = stats.kv_cache_used_ratio();
  PublishModelLocked(shown.model_name);
  if (before.devices != shown.devices || before.active_requests != shown.active_requests ||
      before.waiting_requests != shown.waiting_requests) {
    Tell(instance);
  }
}

bool Engines::Rep::ClaimEnding(const InstancePtr& instance) {
  MutexLock lock(mutex);
  return std::exchange(instance->ending, Ending::kClaimed) == Ending::kNone;
}

void Engines::Rep::Drain(EngineInstance& instance, milliseconds drain) {
  const auto deadline = std::chrono::steady_clock::now() + drain;
  instance.pins->WaitForNone(deadline);
  {
    MutexLock lock(mutex);
    if (stopping) return;
  }
  const auto left =
      std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
  const auto cut_off = EngineClient(instance.channel).Drain(std::max(left, milliseconds(0)));
  if (!cut_off.ok() && !instance.process->exited()) {
    LogWarning("drain_failed", {{"model", instance.shown.model_name}, {"error", cut_off.status()}});
  } else if (cut_off.ok() && *cut_off > 0) {
    LogWarning("requests_cut_off", {{"model", instance.shown.model_name}, {"count", *cut_off}});
  }
  // What the requests since the last message added would be lost otherwise.
  instance.stats = std::jthread();
  if (const auto last = EngineClient(instance.channel).ReadStats(kLastStats); last.ok()) {
    ApplyStats(instance, *last);
  }
}

void Engines::Rep::Bury(const InstancePtr& instance, const absl::Status& error,
                        milliseconds grace) {
  instance->stats = std::jthread();  // requests stop and joins
  if (instance->process) {
    instance->process->End(grace);
    // Destroyed with no lock held: that joins its watcher, which may still be on its way to
    // HandleExit().
    std::unique_ptr<EngineProcess> ended;
    {
      MutexLock lock(mutex);
      ended = std::move(instance->process);
    }
  }
  SampleDevices();
  MutexLock lock(mutex);
  instances.erase(instance->shown.instance_id);
  PublishLocked(instance->shown.model_name);
  LogInfo("engine_ended",
          {{"model", instance->shown.model_name}, {"pid", instance->shown.pid}, {"error", error}});
  events.Push({.instance = instance->shown, .gone = true, .error = error});
  changed.NotifyAll();
}

void Engines::Rep::HandleExit(const InstancePtr& instance) {
  absl::Status error;
  {
    MutexLock lock(mutex);
    const bool ours =
        instance->ending == Ending::kNone && instance->shown.state == InstanceState::kReady;
    if (!ours) return;
    instance->ending = Ending::kClaimed;
    instance->shown.state = InstanceState::kDraining;
    error = Lost(*instance);
  }
  LogError("engine_lost", {{"model", instance->shown.model_name}, {"error", error}});
  Bury(instance, error, milliseconds(0));
}

InstancePtr Engines::Rep::ReadyLocked(std::string_view model_name) const {
  for (const auto& [id, instance] : instances) {
    if (instance->shown.model_name == model_name &&
        instance->shown.state == InstanceState::kReady) {
      return instance;
    }
  }
  return nullptr;
}

}  // namespace modeld
