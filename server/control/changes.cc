#include "server/control/changes.h"

#include <set>
#include <thread>
#include <utility>
#include <vector>

namespace modeld {

// `callers` and `removed` are guarded by Changes::mutex_, which the annotations cannot name from
// here.
struct Changes::Subscription::Entry {
  int64_t id = 0;
  std::string topic;
  std::function<void(const std::string&)> on_change;
  std::multiset<std::thread::id> callers;  // threads that are in on_change
  bool removed = false;
};

namespace {

bool Concerns(const std::string& topic, const std::string& what) {
  if (what.empty() || topic.empty()) return true;
  return topic.back() == ':' ? what.starts_with(topic) : what == topic;
}

}  // namespace

Changes::Subscription::Subscription(Changes& changes, std::shared_ptr<Entry> entry)
    : changes_(changes), entry_(std::move(entry)) {}

Changes::Subscription::~Subscription() { changes_.Remove(entry_); }

std::unique_ptr<Changes::Subscription> Changes::Subscribe(std::string topic,
                                                          std::function<void()> on_change) {
  return SubscribeNamed(std::move(topic),
                        [on_change = std::move(on_change)](const std::string&) { on_change(); });
}

std::unique_ptr<Changes::Subscription> Changes::SubscribeNamed(
    std::string topic, std::function<void(const std::string&)> on_change) {
  auto entry = std::make_shared<Subscription::Entry>();
  entry->topic = std::move(topic);
  entry->on_change = std::move(on_change);
  {
    MutexLock lock(mutex_);
    entry->id = next_id_++;
    entries_[entry->id] = entry;
  }
  return std::unique_ptr<Subscription>(new Subscription(*this, std::move(entry)));
}

void Changes::Publish(const std::string& what) {
  std::vector<std::shared_ptr<Subscription::Entry>> concerned;
  {
    MutexLock lock(mutex_);
    for (const auto& [id, entry] : entries_) {
      if (Concerns(entry->topic, what)) concerned.push_back(entry);
    }
  }
  for (const auto& entry : concerned) {
    {
      MutexLock lock(mutex_);
      if (entry->removed) continue;
      entry->callers.insert(std::this_thread::get_id());
    }
    entry->on_change(what);
    MutexLock lock(mutex_);
    entry->callers.erase(entry->callers.find(std::this_thread::get_id()));
    call_ended_.NotifyAll();
  }
}

void Changes::Remove(const std::shared_ptr<Subscription::Entry>& entry) {
  MutexLock lock(mutex_);
  entries_.erase(entry->id);
  entry->removed = true;
  // A callback that ends its own subscription must not wait for itself.
  while (entry->callers.size() > entry->callers.count(std::this_thread::get_id())) {
    call_ended_.Wait(mutex_);
  }
}

}  // namespace modeld
