// A server stream of what one long piece of work tells on its way.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <deque>
#include <functional>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/core/reason.h"
#include "server/rpc/calls.h"
#include "server/wire/status_wire.h"

namespace modeld {

// Runs `work` on the executor, sends each message that it emits, and ends with its status. A client
// that does not read makes Emit() wait; one that goes away requests the stop. Owns itself: deleted
// in OnDone(), which comes after `work` has ended.
template <typename Message>
class WorkStream final : public grpc::ServerWriteReactor<Message> {
 public:
  using Emit = std::function<void(Message)>;
  using Work = std::function<absl::Status(const Emit& emit, std::stop_token stop)>;

  WorkStream(Calls& calls, std::string method, Work work)
      : calls_(calls), method_(std::move(method)), work_(std::move(work)) {
    if (calls_.executor().Run([this] { Run(); })) return;
    MutexLock lock(mutex_);
    ended_ = true;
    status_ =
        Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1));
    Next();
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(mutex_);
    writing_ = false;
    if (!ok) GiveUp();
    changed_.NotifyAll();
    Next();
  }

  void OnCancel() override {
    MutexLock lock(mutex_);
    GiveUp();
    changed_.NotifyAll();
  }

  void OnDone() override {
    {
      MutexLock lock(mutex_);  // whoever called Finish() may hold it still
    }
    delete this;
  }

 private:
  static constexpr size_t kWaitingMax = 256;

  void Run() {
    const absl::Status status =
        work_([this](Message message) { Send(std::move(message)); }, stop_.get_token());
    MutexLock lock(mutex_);
    ended_ = true;
    status_ = status;
    Next();
  }

  void Send(Message message) {
    MutexLock lock(mutex_);
    while (messages_.size() >= kWaitingMax && !stop_.stop_requested()) changed_.Wait(mutex_);
    if (stop_.stop_requested()) return;
    messages_.push_back(std::move(message));
    Next();
  }

  void GiveUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    stop_.request_stop();
    messages_.clear();
  }

  // One write at a time, and Finish() after the last.
  void Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_ || finished_) return;
    if (!messages_.empty()) {
      writing_ = true;
      sending_ = std::move(messages_.front());
      messages_.pop_front();
      changed_.NotifyAll();
      this->StartWrite(&sending_);
      return;
    }
    if (!ended_) return;
    finished_ = true;
    const grpc::Status status =
        stop_.stop_requested() ? grpc::Status::CANCELLED : ToGrpcStatus(status_);
    calls_.Count(method_, status.error_code(), start_);
    this->Finish(status);
  }

  Calls& calls_;
  const std::string method_;
  const Work work_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::stop_source stop_;
  Message sending_;  // belongs to the write in flight
  Mutex mutex_;
  CondVar changed_;
  std::deque<Message> messages_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
