// Who wants to hear of what: hands news of the database (store/listener.h) and of this process on
// to whoever waits for it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "server/base/mutex.h"

namespace modeld {

// Thread-safe. Outlives its subscriptions.
//   ChangeListener listener(options, [&](const std::string& what) { changes.Publish(what); });
class Changes {
 public:
  // Ends with the object, which waits for a callback that is running (but not for its own).
  class Subscription {
   public:
    ~Subscription();
    Subscription(const Subscription&) = delete;
    Subscription& operator=(const Subscription&) = delete;

   private:
    friend class Changes;
    struct Entry;
    Subscription(Changes& changes, std::shared_ptr<Entry> entry);

    Changes& changes_;
    const std::shared_ptr<Entry> entry_;
  };

  // Calls `on_change` after each change of `topic`, from the thread that tells it, with no lock
  // held; it must be quick and must not block. Topics: "model:<model_name>", "operation:<name>",
  // "load:<node_id>"; one that ends in ':' means all of its kind, "" means everything.
  [[nodiscard]] std::unique_ptr<Subscription> Subscribe(std::string topic,
                                                        std::function<void()> on_change);
  // The same, told what changed; "" means that anything may have.
  [[nodiscard]] std::unique_ptr<Subscription> SubscribeNamed(
      std::string topic, std::function<void(const std::string& what)> on_change);

  // Tells that `what` changed; "" means that anything may have.
  void Publish(const std::string& what);

 private:
  void Remove(const std::shared_ptr<Subscription::Entry>& entry);

  Mutex mutex_;
  CondVar call_ended_;
  int64_t next_id_ ABSL_GUARDED_BY(mutex_) = 1;
  std::map<int64_t, std::shared_ptr<Subscription::Entry>> entries_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
