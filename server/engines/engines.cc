#include "server/engines/engines.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engines/engines_rep.h"
#include "server/engines/inspector.h"
#include "server/engines/leftovers.h"

namespace modeld {

using std::chrono::milliseconds;

Engines::Engines(const Options& options, Metrics& metrics, Clock& clock, OnEvent on_event)
    : rep_(std::make_unique<Rep>(options, metrics, clock, std::move(on_event))) {
  rep_->started = MakeDirectories(options.socket_dir, 0700);
  if (rep_->started.ok()) {
    const absl::StatusOr<int> ended = EndLeftovers(options.socket_dir);
    rep_->started = ended.status();
    if (ended.ok() && *ended > 0) LogInfo("leftover_engines_ended", {{"count", *ended}});
  }
  if (!rep_->started.ok()) LogError("engines_unusable", {{"error", rep_->started}});
  rep_->SampleDevices();
  rep_->sampler =
      std::jthread([rep = rep_.get()](std::stop_token stop) { rep->SampleDevicesUntil(stop); });
}

Engines::~Engines() {
  std::vector<InstancePtr> left;
  {
    MutexLock lock(rep_->mutex);
    rep_->stopping = true;
    for (const auto& [id, instance] : rep_->instances) left.push_back(instance);
    // All at once, so that the wait is bounded by the slowest and not by the sum.
    for (const InstancePtr& instance : left) {
      instance->pins->Hurry();
      if (instance->process) instance->process->CloseControl();
    }
  }
  rep_->sampler.request_stop();
  const auto deadline = std::chrono::steady_clock::now() + kEndGrace;
  for (const InstancePtr& instance : left) {
    if (!rep_->ClaimEnding(instance)) continue;
    const auto grace = deadline - std::chrono::steady_clock::now();
    rep_->Bury(instance, absl::OkStatus(),
               std::max(std::chrono::duration_cast<milliseconds>(grace), milliseconds(0)));
  }
  // Those that somebody else is ending; a process that is dead ends every wait for it.
  MutexLock lock(rep_->mutex);
  while (!rep_->instances.empty() && rep_->changed.WaitUntil(rep_->mutex, deadline)) {
  }
  for (const auto& [id, instance] : rep_->instances) {
    if (instance->process) instance->process->Kill();
  }
  while (!rep_->instances.empty()) rep_->changed.Wait(rep_->mutex);
}

absl::StatusOr<Inspection> Engines::Inspect(const std::string& request_json, std::stop_token stop) {
  return RunInspector({.program = rep_->options.program}, request_json, std::move(stop));
}

absl::StatusOr<Placement> Engines::Plan(const std::string& model_name, const Inspection& inspection,
                                        const LoadSpec& spec, bool replace) {
  rep_->SampleDevices();
  MutexLock lock(rep_->mutex);
  return Place({.model_name = model_name, .replace = replace, .spec = spec}, inspection,
               rep_->RoomsLocked(), rep_->PlacedLocked());
}

absl::StatusOr<Instance> Engines::Load(const EngineLoad& load, const OnLoadProgress& on_progress,
                                       std::stop_token stop) {
  const auto begin = rep_->clock.Steady();
  const auto instance = std::make_shared<EngineInstance>();
  absl::Status status = rep_->Enter(load, instance);
  const bool entered = status.ok();
  if (status.ok()) status = rep_->Start(load, instance, on_progress, std::move(stop));
  const double seconds = std::chrono::duration<double>(rep_->clock.Steady() - begin).count();
  rep_->metrics.load_duration_seconds
      .Add({{"model", load.model_name}, {"result", status.ok() ? "ok" : "failed"}},
           TransferBuckets())
      .Observe(seconds);
  if (!status.ok()) {
    LogWarning("load_failed",
               {{"model", load.model_name}, {"seconds", seconds}, {"error", status}});
    if (entered && rep_->ClaimEnding(instance)) rep_->Bury(instance, status, kEndGrace);
    return status;
  }
  MutexLock lock(rep_->mutex);
  return instance->shown;
}

absl::Status Engines::Unload(const std::string& model_name, milliseconds drain) {
  std::vector<InstancePtr> claimed;
  std::set<std::string> waited_for;
  {
    MutexLock lock(rep_->mutex);
    for (const auto& [id, instance] : rep_->instances) {
      if (instance->shown.model_name != model_name ||
          instance->shown.state == InstanceState::kLoading) {
        continue;
      }
      waited_for.insert(id);
      if (std::exchange(instance->ending, Ending::kClaimed) != Ending::kNone) continue;
      instance->shown.state = InstanceState::kDraining;
      rep_->Tell(*instance);
      claimed.push_back(instance);
    }
    if (!claimed.empty()) rep_->PublishLocked(model_name);
  }
  for (const InstancePtr& instance : claimed) {
    rep_->Drain(*instance, drain);
    rep_->Bury(instance, absl::OkStatus(), kEndGrace);
  }
  // Those that somebody else ends already: within the bound that they have there.
  MutexLock lock(rep_->mutex);
  const auto there = [&](const std::string& id)
                         ABSL_NO_THREAD_SAFETY_ANALYSIS { return rep_->instances.contains(id); };
  while (std::ranges::any_of(waited_for, there)) rep_->changed.Wait(rep_->mutex);
  return absl::OkStatus();
}

absl::StatusOr<EngineHandle> Engines::Pin(std::string_view model_name) {
  MutexLock lock(rep_->mutex);
  const InstancePtr instance = rep_->ReadyLocked(model_name);
  if (instance == nullptr) {
    return Error(Reason::kModelNotReady,
                 absl::StrCat("model ", std::string(model_name), " is not loaded on this node"));
  }
  const int64_t waiting = WaitingRequests(instance->pins->count(), instance->sequences_max,
                                          instance->shown.waiting_requests);
  if (waiting >= rep_->options.requests_waiting_max) {
    ErrorDetails details{.reason = std::string(ReasonName(Reason::kQueueFull))};
    details.retry_after = kRetryAfter;
    details.metadata = {{"waiting", std::to_string(waiting)},
                        {"waiting_max", std::to_string(rep_->options.requests_waiting_max)}};
    return ErrorWithDetails(ReasonCode(Reason::kQueueFull),
                            absl::StrCat(waiting, " requests wait for ", std::string(model_name),
                                         ", at most ", rep_->options.requests_waiting_max, " may"),
                            details);
  }
  instance->last_used_ns = Nanoseconds(rep_->clock.Steady());
  instance->pins->Add();
  EngineHandle handle;
  handle.channel_ = instance->channel;
  handle.instance_id_ = instance->shown.instance_id;
  handle.pin_ = std::shared_ptr<void>(nullptr, [pins = instance->pins](void*) { pins->Remove(); });
  return handle;
}

std::vector<Instance> Engines::List() const {
  std::vector<Instance> list;
  {
    MutexLock lock(rep_->mutex);
    for (const auto& [id, instance] : rep_->instances) list.push_back(instance->shown);
  }
  std::ranges::sort(list, {},
                    [](const Instance& i) { return std::pair(i.model_name, i.create_time); });
  return list;
}

std::vector<DeviceInfo> Engines::Devices() const {
  MutexLock lock(rep_->mutex);
  return rep_->DevicesLocked();
}

void Engines::SetPinned(const std::string& model_name, bool pinned) {
  MutexLock lock(rep_->mutex);
  for (const auto& [id, instance] : rep_->instances) {
    if (instance->shown.model_name == model_name) instance->pinned = pinned;
  }
}

}  // namespace modeld
