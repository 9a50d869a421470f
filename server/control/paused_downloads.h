// Downloads of this node that are paused: those that wait for space go on when there is room.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "server/base/clock.h"
#include "server/control/registry.h"
#include "server/control/tables.h"
#include "server/core/operation.h"
#include "server/metrics/metrics.h"

namespace modeld {

// One thread at a time.
class PausedDownloads {
 public:
  struct Options {
    std::string node_id;
    std::chrono::milliseconds space_check{5'000};  // how often it looks for room
    // Where the filesystem shows room and writes fail still, as with a quota: the pause between two
    // tries doubles up to this.
    std::chrono::milliseconds space_check_max{60'000};
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    Metrics& metrics;
    Clock& clock;
  };

  PausedDownloads(const Options& options, const Parts& parts) : options_(options), parts_(parts) {}

  // Makes those PENDING again that have waited for a while and have room now, and keeps
  // modeld_download_remaining_bytes of all that are paused. `running_models` have an attempt, which
  // keeps that gauge itself.
  void Look(const std::set<std::string>& running_models);

 private:
  // Of an operation that was made PENDING again.
  struct Try {
    int64_t bytes_done = 0;  // by then
    int failed = 0;          // in a row without a byte
    bool again = false;      // it is on its way
    std::chrono::steady_clock::time_point next;
  };

  void ShowRemaining(const std::vector<Operation>& paused,
                     const std::set<std::string>& running_models);
  void ResumeIfRoom(const Operation& operation, std::map<std::string, int64_t>& promised);

  const Options options_;
  const Parts parts_;
  std::set<std::string> shown_;       // models whose gauge says what is paused
  std::map<std::string, Try> tries_;  // by operation
  std::chrono::steady_clock::time_point next_check_;
};

}  // namespace modeld
