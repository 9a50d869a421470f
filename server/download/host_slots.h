// How many connections one origin has, and that they stay below a limit.
#pragma once

#include <map>
#include <stop_token>
#include <string>

#include "server/base/mutex.h"

namespace modeld {

// Thread-safe.
class HostSlots {
 public:
  // 0: no limit. What is taken stays taken.
  void SetLimit(int per_host);
  // Waits for a slot at `origin`, to be given back by Release(); false when `stop` came first.
  bool Take(const std::string& origin, std::stop_token stop);
  void Release(const std::string& origin);

 private:
  Mutex mutex_;
  CondVar changed_;
  int limit_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int> taken_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
