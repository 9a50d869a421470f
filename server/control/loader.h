// The one reconcile loop: takes this node's operations, does them, and keeps in memory what is
// wanted there.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/control/changes.h"
#include "server/control/engine_events.h"
#include "server/control/live_progress.h"
#include "server/control/nodes.h"
#include "server/control/registry.h"
#include "server/control/tables.h"
#include "server/download/download_pool.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"

namespace modeld {

// Thread-safe. The constructor starts the threads: they first take back what this node left running
// and ask again for the loads that were wanted. The destructor stops what runs (rows stay RUNNING
// and are taken up by the next start) and joins.
class Loader {
 public:
  struct Options {
    std::string node_id;
    int64_t attempts_max = 16;  // downloads at work at once, and so many loads and unloads
    std::chrono::seconds lease{30};
    std::chrono::milliseconds tick{1'000};  // progress to the database, leases, wishes
    std::chrono::milliseconds heartbeat{10'000};
    std::chrono::milliseconds gauges{30'000};     // walks the caches
    std::chrono::milliseconds retry_base{1'000};  // doubled each time, at most retry_max
    std::chrono::milliseconds retry_max{60'000};
    std::chrono::milliseconds give_up_after{3'600'000};  // temporary failures without any progress
    std::chrono::milliseconds space_check{5'000};        // for downloads that wait for space
    std::chrono::milliseconds drain{30'000};             // of running requests at an unload
    std::chrono::seconds load_timeout_base{300};         // plus ...
    std::chrono::seconds load_timeout_per_gib{20};       // ... for each GiB of weights
    int64_t crashes_max = 3;                             // within ...
    std::chrono::seconds crash_window{600};              // ... this: FAILED until asked again
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    Nodes& nodes;
    HubClient& hub;
    DownloadPool& pool;
    Engines& engines;
    EngineEvents& events;
    Changes& changes;
    LiveProgress& live;
    Metrics& metrics;
    Clock& clock;
  };

  Loader(const Options& options, const Parts& parts);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // Looks for work now, as after a change.
  void Wake();

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
