#include "server/download/host_slots.h"

#include <utility>

namespace modeld {

void HostSlots::SetLimit(int per_host) {
  MutexLock lock(mutex_);
  limit_ = per_host;
  changed_.NotifyAll();
}

bool HostSlots::Take(const std::string& origin, std::stop_token stop) {
  const std::stop_callback wake(stop, [this] {
    MutexLock lock(mutex_);
    changed_.NotifyAll();
  });
  MutexLock lock(mutex_);
  while (!stop.stop_requested()) {
    if (limit_ <= 0 || taken_[origin] < limit_) {
      ++taken_[origin];
      return true;
    }
    changed_.Wait(mutex_);
  }
  return false;
}

void HostSlots::Release(const std::string& origin) {
  MutexLock lock(mutex_);
  const auto it = taken_.find(origin);
  if (it != taken_.end() && --it->second == 0) taken_.erase(it);
  changed_.NotifyAll();
}

}  // namespace modeld
