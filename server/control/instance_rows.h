// Keeps the rows of this node's engine processes equal to the processes.
#pragma once

#include <chrono>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/control/tables.h"
#include "server/engines/engines.h"

namespace modeld {

// Thread-safe. Goes by what there is and not by events, so that none can come too late or be lost.
class InstanceRows {
 public:
  InstanceRows(Tables& tables, Engines& engines) : tables_(tables), engines_(engines) {}

  // Writes what differs from what was written last: states at once, figures every few seconds.
  absl::Status Sync();

 private:
  struct Written {
    Instance instance;
    std::chrono::steady_clock::time_point time;
  };

  Tables& tables_;
  Engines& engines_;
  // Held over the writes, so that an older list never overwrites a newer one.
  Mutex mutex_;
  std::map<std::string, Written> written_ ABSL_GUARDED_BY(mutex_);  // by instance_id
};

}  // namespace modeld
