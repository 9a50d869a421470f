#include "server/control/gauges.h"

#include <map>
#include <vector>

#include "server/core/model.h"

namespace modeld {

void Gauges::Update() {
  UpdateModels();
  UpdateInstances();
  UpdateCaches();
}

void Gauges::UpdateModels() {
  const auto views = parts_.registry.ListAll();
  if (!views.ok()) return;
  std::map<ModelState, int64_t> counts;
  for (const ModelView& view : *views) ++counts[view.state];
  for (const ModelState state : kModelStates) {
    parts_.metrics.models.Add({{"state", std::string(ModelStateName(state))}})
        .Set(static_cast<double>(counts[state]));
  }
}

void Gauges::UpdateInstances() {
  std::map<InstanceState, int64_t> counts;
  for (const Instance& instance : parts_.engines.List()) ++counts[instance.state];
  for (const InstanceState state :
       {InstanceState::kLoading, InstanceState::kReady, InstanceState::kDraining}) {
    parts_.metrics.instances.Add({{"state", std::string(InstanceStateName(state))}})
        .Set(static_cast<double>(counts[state]));
  }
}

void Gauges::UpdateCaches() {
  auto caches = parts_.registry.ListCaches();
  // Without the database the configured ones are known still.
  const std::vector<NamedCache> known =
      caches.ok() ? *std::move(caches) : parts_.registry.ConfiguredCaches();
  for (const NamedCache& cache : known) {
    const std::string label = cache.name == "custom" ? cache.summary.cache_path : cache.name;
    const Filesystem& filesystem = cache.summary.filesystem;
    const auto set = [&](prometheus::Family<prometheus::Gauge>& family, int64_t bytes) {
      family.Add({{"cache", label}}).Set(static_cast<double>(bytes));
    };
    set(parts_.metrics.cache_free_bytes, filesystem.free_bytes);
    set(parts_.metrics.cache_size_bytes, filesystem.total_bytes);
    set(parts_.metrics.cache_used_bytes, cache.summary.used_bytes);
  }
}

}  // namespace modeld
