#include "server/control/engine_events.h"

#include <utility>

namespace modeld {

void EngineEvents::Add(const Engines::Event& event) {
  {
    MutexLock lock(mutex_);
    events_.insert_or_assign(event.instance.instance_id, event);
  }
  MutexLock lock(listener_mutex_);
  if (listener_) listener_();
}

std::vector<Engines::Event> EngineEvents::Take() {
  std::map<std::string, Engines::Event> taken;
  {
    MutexLock lock(mutex_);
    taken.swap(events_);
  }
  std::vector<Engines::Event> events;
  for (auto& [id, event] : taken) events.push_back(std::move(event));
  return events;
}

void EngineEvents::SetListener(std::function<void()> listener) {
  MutexLock lock(listener_mutex_);
  listener_ = std::move(listener);
}

}  // namespace modeld
