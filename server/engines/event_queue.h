// Hands events to one listener on one thread, in order, no lock held.
#pragma once

#include <deque>
#include <thread>

#include "server/base/mutex.h"
#include "server/engines/engines.h"

namespace modeld {

// Thread-safe. New figures of an instance replace those that were not delivered yet, so the queue
// is no longer than a few entries for each instance. The destructor delivers what is left.
class EventQueue {
 public:
  explicit EventQueue(Engines::OnEvent on_event);
  ~EventQueue();
  EventQueue(const EventQueue&) = delete;
  EventQueue& operator=(const EventQueue&) = delete;

  void Push(Engines::Event event);

 private:
  void Deliver();

  const Engines::OnEvent on_event_;
  Mutex mutex_;
  CondVar changed_;
  std::deque<Engines::Event> waiting_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread thread_;  // last
};

}  // namespace modeld
