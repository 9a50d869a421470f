// From an engine's counters, which begin at 0 with its process, to the daemon's, which never go
// back.
#pragma once

#include <string>

#include "modeld/engine/v1/engine.pb.h"
#include "server/metrics/metrics.h"

namespace modeld {

// Of one engine process. One thread at a time.
class StatsMetrics {
 public:
  // `metrics` outlives this.
  StatsMetrics(Metrics& metrics, std::string model_name);

  // Adds what is new since the call before.
  void Apply(const modeld::engine::v1::StatsResponse& stats);

 private:
  Metrics& metrics_;
  const std::string model_name_;
  modeld::engine::v1::StatsResponse last_;
};

}  // namespace modeld
