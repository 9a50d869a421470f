// Calls that wait for changes: a state machine that reads when something changed and never blocks a
// gRPC thread.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/control/changes.h"
#include "server/core/reason.h"
#include "server/rpc/calls.h"
#include "server/wire/status_wire.h"

namespace modeld {

// What a look at the watched thing gave.
template <typename Message>
struct Look {
  std::vector<Message> messages;  // to be sent, in order
  bool last = false;              // nothing follows
};

// A server stream of what `look` gives: at once, and again after each change of `topic`
// (changes.h), at most once in `pause`. `look` runs on the executor, one at a time; its error ends
// the stream. Owns itself: deleted in OnDone().
template <typename Message>
class WatchStream final : public grpc::ServerWriteReactor<Message> {
 public:
  struct Options {
    std::string method;
    std::string topic;  // of Changes::Subscribe
    std::chrono::milliseconds pause{100};
  };
  using LookFn = std::function<absl::StatusOr<Look<Message>>()>;

  WatchStream(Calls& calls, Changes& changes, Options options, LookFn look)
      : calls_(calls), options_(std::move(options)), look_(std::move(look)) {
    {
      MutexLock lock(mutex_);
      StartLook();
    }
    // After the first look began, so that no change between the two is missed.
    subscription_ = changes.Subscribe(options_.topic, [this] { Changed(); });
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    cancelled_ |= !ok;
    Next();
  }

  void OnCancel() override {
    MutexLock lock(mutex_);
    cancelled_ = true;
    // Whoever is busy sees it next; an alarm would let the caller wait for nothing.
    if (paused_) pause_over_.Cancel();
    if (!busy_) End(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    subscription_.reset();  // waits for a Changed() that is running
    {
      MutexLock lock(mutex_);  // whoever called Finish() may hold it still
    }
    delete this;
  }

 private:
  void Changed() {
    MutexLock lock(mutex_);
    dirty_ = true;
    if (!busy_ && !ended_) StartLook();
  }

  // The fields below say who may touch the stream next: `busy_` holds from StartLook() until Next()
  // finds nothing to do.
  void StartLook() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    busy_ = true;
    dirty_ = false;
    if (!calls_.executor().Run([this] { RunLook(); })) {
      End(ToGrpcStatus(
          Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1))));
    }
  }

  void RunLook() {
    auto seen = look_();
    MutexLock lock(mutex_);
    if (!seen.ok()) return End(ToGrpcStatus(seen.status()));
    for (Message& message : seen->messages) messages_.push_back(std::move(message));
    last_ = seen->last;
    Next();
  }

  void Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (cancelled_) return End(grpc::Status::CANCELLED);
    if (!messages_.empty()) {
      sending_ = std::move(messages_.front());
      messages_.pop_front();
      this->StartWrite(&sending_);
      return;
    }
    if (last_) return End(grpc::Status::OK);
    // Changes that come during the pause are one look after it.
    paused_ = true;
    pause_over_.Set(std::chrono::system_clock::now() + options_.pause, [this](bool) {
      MutexLock lock(mutex_);
      paused_ = false;
      if (cancelled_) return End(grpc::Status::CANCELLED);
      if (dirty_) return StartLook();
      busy_ = false;
    });
  }

  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (ended_) return;
    ended_ = true;
    busy_ = true;
    calls_.Count(options_.method, status.error_code(), start_);
    this->Finish(status);
  }

  Calls& calls_;
  const Options options_;
  const LookFn look_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  Message sending_;  // belongs to the write in flight
  grpc::Alarm pause_over_;
  std::unique_ptr<Changes::Subscription> subscription_;
  Mutex mutex_;
  std::deque<Message> messages_ ABSL_GUARDED_BY(mutex_);
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;
  bool last_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace modeld
