// The gauges of the control plane, written on a timer so that a scrape asks nobody.
#pragma once

#include <string>

#include "server/control/registry.h"
#include "server/engines/engines.h"
#include "server/metrics/metrics.h"

namespace modeld {

// modeld_models, modeld_instances, modeld_cache_*. One thread at a time.
class Gauges {
 public:
  struct Parts {
    Registry& registry;
    Engines& engines;
    Metrics& metrics;
  };

  explicit Gauges(const Parts& parts) : parts_(parts) {}

  // What the database cannot say now stays as it was.
  void Update();

 private:
  void UpdateModels();
  void UpdateInstances();
  void UpdateCaches();

  const Parts parts_;
};

}  // namespace modeld
