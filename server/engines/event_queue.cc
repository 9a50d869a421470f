#include "server/engines/event_queue.h"

#include <utility>

namespace modeld {
namespace {

// Whether `newer` says everything that a listener needs of `older`.
bool Replaces(const Engines::Event& newer, const Engines::Event& older) {
  return !newer.gone && !older.gone && newer.instance.instance_id == older.instance.instance_id &&
         newer.instance.state == older.instance.state;
}

}  // namespace

EventQueue::EventQueue(Engines::OnEvent on_event)
    : on_event_(std::move(on_event)), thread_([this] { Deliver(); }) {}

EventQueue::~EventQueue() {
  MutexLock lock(mutex_);
  closed_ = true;
  changed_.NotifyAll();
}

void EventQueue::Push(Engines::Event event) {
  MutexLock lock(mutex_);
  for (auto older = waiting_.rbegin(); older != waiting_.rend(); ++older) {
    if (older->instance.instance_id != event.instance.instance_id) continue;
    if (!Replaces(event, *older)) break;
    *older = std::move(event);
    return;
  }
  waiting_.push_back(std::move(event));
  changed_.NotifyAll();
}

void EventQueue::Deliver() {
  while (true) {
    Engines::Event event;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !closed_) changed_.Wait(mutex_);
      if (waiting_.empty()) return;
      event = std::move(waiting_.front());
      waiting_.pop_front();
    }
    if (on_event_) on_event_(event);
  }
}

}  // namespace modeld
