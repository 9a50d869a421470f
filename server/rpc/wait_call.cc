#include "server/rpc/wait_call.h"

#include <utility>

#include "server/core/reason.h"
#include "server/wire/convert.h"
#include "server/wire/status_wire.h"

namespace modeld {

WaitCall::WaitCall(Calls& calls, Changes& changes, Operations& operations, Options options,
                   v1::Operation* response)
    : calls_(calls), operations_(operations), options_(std::move(options)), response_(response) {
  {
    MutexLock lock(mutex_);
    if (options_.timeout) {
      alarm_pending_ = true;
      alarm_.Set(std::chrono::system_clock::now() + *options_.timeout,
                 [this](bool) { TimeIsUp(); });
    }
    StartLook();
  }
  subscription_ = changes.Subscribe("operation:" + options_.operation, [this] { Changed(); });
}

void WaitCall::Changed() {
  MutexLock lock(mutex_);
  dirty_ = true;
  if (!busy_ && !ended_) StartLook();
}

void WaitCall::TimeIsUp() {
  bool last = false;
  {
    MutexLock lock(mutex_);
    alarm_pending_ = false;
    time_is_up_ = true;
    last = done_;
    if (!busy_ && !ended_) StartLook();
  }
  if (last) delete this;
}

void WaitCall::StartLook() {
  busy_ = true;
  dirty_ = false;
  if (!calls_.executor().Run([this] { RunLook(); })) {
    End(ToGrpcStatus(
        Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1))));
  }
}

void WaitCall::RunLook() {
  const auto operation = operations_.Get(options_.operation);
  MutexLock lock(mutex_);
  if (cancelled_) return End(grpc::Status::CANCELLED);
  if (!operation.ok()) return End(ToGrpcStatus(operation.status()));
  if (operation->done() || time_is_up_) {
    *response_ = ToProto(*operation);
    return End(grpc::Status::OK);
  }
  busy_ = false;
  if (dirty_) StartLook();
}

void WaitCall::OnCancel() {
  MutexLock lock(mutex_);
  cancelled_ = true;
  if (!busy_) End(grpc::Status::CANCELLED);
}

void WaitCall::End(const grpc::Status& status) {
  if (ended_) return;
  ended_ = true;
  busy_ = true;
  calls_.Count(options_.method, status.error_code(), start_);
  Finish(status);
}

void WaitCall::OnDone() {
  subscription_.reset();
  bool last = false;
  {
    MutexLock lock(mutex_);
    done_ = true;
    last = !alarm_pending_;
    if (alarm_pending_) alarm_.Cancel();
  }
  if (last) delete this;
}

}  // namespace modeld
