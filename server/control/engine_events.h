// News of the engines on their way to the loader.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "server/base/mutex.h"
#include "server/engines/engines.h"

namespace modeld {

// Made before Engines, which gets Add() for its OnEvent, and before Loader, which takes them. Keeps
// the newest event of each instance, so that it stays small while nobody takes them. Thread-safe.
//   EngineEvents events;
//   Engines engines(options, metrics, clock, [&](const Engines::Event& event) { events.Add(event);
//   });
class EngineEvents {
 public:
  void Add(const Engines::Event& event);
  // What came since the last call.
  std::vector<Engines::Event> Take();
  // Called after each Add(), with no lock held; an empty one ends that.
  void SetListener(std::function<void()> listener);

 private:
  Mutex mutex_;
  Mutex listener_mutex_;  // held while the listener runs, so that SetListener({}) waits for it
  std::function<void()> listener_ ABSL_GUARDED_BY(listener_mutex_);
  std::map<std::string, Engines::Event> events_ ABSL_GUARDED_BY(mutex_);  // by instance_id
};

}  // namespace modeld
