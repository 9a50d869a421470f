// Who holds which memory of which device, for placement and for the gauges.
#include <algorithm>
#include <chrono>
#include <utility>

#include "server/engines/engines_rep.h"

namespace modeld {
namespace {

constexpr std::chrono::milliseconds kDeviceSamplePeriod{2'000};
// Memory of a CUDA context, which no allocator reports; 300 to 500 MiB are usual.
constexpr int64_t kCudaContextBytes = 512 << 20;

}  // namespace

void Engines::Rep::SampleDevices() {
  MutexLock one(sampling);
  std::vector<DeviceSample> now = devices.Sample();
  MutexLock lock(mutex);
  sample = std::move(now);
  PublishLocked("");
}

void Engines::Rep::SampleDevicesUntil(std::stop_token stop) {
  while (clock.Sleep(kDeviceSamplePeriod, stop)) SampleDevices();
}

std::vector<DeviceInfo> Engines::Rep::DevicesLocked() const {
  std::vector<DeviceInfo> found;
  for (const DeviceSample& device : sample) {
    DeviceInfo info{
        .name = device.name, .kind = device.kind, .product = device.product, .uuid = device.uuid};
    info.total_bytes = device.total_bytes;
    int64_t ours = 0;
    for (const auto& [id, instance] : instances) {
      for (const DeviceBytes& bytes : instance->shown.devices) {
        if (bytes.device != device.name) continue;
        info.model_bytes[instance->shown.model_name] += bytes.total();
        ours += bytes.total();
      }
    }
    info.used_bytes = device.kind == "cpu" ? ours : device.used_bytes;
    info.foreign_bytes = device.kind == "cpu" ? 0 : std::max<int64_t>(device.used_bytes - ours, 0);
    found.push_back(std::move(info));
  }
  return found;
}

std::vector<DeviceRoom> Engines::Rep::RoomsLocked() const {
  std::vector<DeviceRoom> rooms;
  for (const DeviceInfo& device : DevicesLocked()) {
    // What a loading engine took already shows as foreign, since it reports nothing before it is
    // ready, and so does the driver's context of each engine for ever; both are part of budgets,
    // which count elsewhere.
    int64_t counted = 0;
    for (const auto& [id, instance] : instances) {
      const auto budget = instance->budget_bytes.find(device.name);
      const bool silent = instance->shown.devices.empty();
      if (budget == instance->budget_bytes.end()) continue;
      counted += silent ? budget->second : std::min(kCudaContextBytes, budget->second);
    }
    rooms.push_back({device.name, device.kind, device.total_bytes,
                     std::max<int64_t>(device.foreign_bytes - counted, 0)});
  }
  return rooms;
}

std::vector<PlacedModel> Engines::Rep::PlacedLocked() const {
  std::vector<PlacedModel> placed;
  for (const auto& [id, instance] : instances) {
    PlacedModel model{.model_name = instance->shown.model_name,
                      .budget_bytes = instance->budget_bytes};
    // An engine that took more than it was given counts with what it took.
    for (const DeviceBytes& bytes : instance->shown.devices) {
      int64_t& budget = model.budget_bytes[bytes.device];
      budget = std::max(budget, bytes.total());
    }
    model.pinned = instance->pinned;
    model.ready = instance->shown.state == InstanceState::kReady;
    model.last_used_ns = instance->last_used_ns;
    placed.push_back(std::move(model));
  }
  return placed;
}

void Engines::Rep::PublishLocked(const std::string& model_name) {
  for (const InstanceState state :
       {InstanceState::kLoading, InstanceState::kReady, InstanceState::kDraining}) {
    const auto count = std::ranges::count_if(
        instances, [&](const auto& entry) { return entry.second->shown.state == state; });
    metrics.instances.Add({{"state", std::string(InstanceStateName(state))}})
        .Set(static_cast<double>(count));
  }
  for (const DeviceInfo& device : DevicesLocked()) {
    const prometheus::Labels labels{
        {"node", options.node_name}, {"device", device.name}, {"kind", device.kind}};
    metrics.device_memory_total_bytes.Add(labels).Set(static_cast<double>(device.total_bytes));
    metrics.device_memory_used_bytes.Add(labels).Set(static_cast<double>(device.used_bytes));
  }
  if (!model_name.empty()) PublishModelLocked(model_name);
}

void Engines::Rep::PublishModelLocked(const std::string& model_name) {
  int64_t active = 0;
  int64_t waiting = 0;
  double kv_cache_used_ratio = 0;
  bool any = false;
  for (const auto& [id, instance] : instances) {
    if (instance->shown.model_name != model_name) continue;
    any = true;
    active += instance->shown.active_requests;
    waiting += instance->shown.waiting_requests;
    kv_cache_used_ratio = std::max(kv_cache_used_ratio, instance->kv_cache_used_ratio);
  }
  for (const DeviceInfo& device : DevicesLocked()) {
    const prometheus::Labels labels{
        {"node", options.node_name}, {"device", device.name}, {"model", model_name}};
    auto& memory = metrics.model_memory_bytes.Add(labels);
    const auto bytes = device.model_bytes.find(model_name);
    if (bytes == device.model_bytes.end()) {
      metrics.model_memory_bytes.Remove(&memory);
    } else {
      memory.Set(static_cast<double>(bytes->second));
    }
  }
  const auto set_or_remove = [&](prometheus::Family<prometheus::Gauge>& family, double value) {
    auto& gauge = family.Add({{"model", model_name}});
    if (any) {
      gauge.Set(value);
    } else {
      family.Remove(&gauge);
    }
  };
  set_or_remove(metrics.inference_active, static_cast<double>(active));
  set_or_remove(metrics.inference_waiting, static_cast<double>(waiting));
  set_or_remove(metrics.kv_cache_used_ratio, kv_cache_used_ratio);
}

}  // namespace modeld
