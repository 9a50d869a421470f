// Orchestrator.WaitOperation: answers when the operation is done or the time is up, without a
// thread that stands still.
#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "modeld/v1/operation.pb.h"
#include "server/base/mutex.h"
#include "server/control/changes.h"
#include "server/control/operations.h"
#include "server/rpc/calls.h"

namespace modeld {

// Owns itself: deleted when gRPC and the alarm are both through with it.
class WaitCall final : public grpc::ServerUnaryReactor {
 public:
  struct Options {
    std::string method;
    std::string operation;
    std::optional<std::chrono::milliseconds> timeout;  // none: until the call's deadline
  };

  WaitCall(Calls& calls, Changes& changes, Operations& operations, Options options,
           v1::Operation* response);

  void OnCancel() override;
  void OnDone() override;

 private:
  void Changed();
  void TimeIsUp();
  void StartLook() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunLook();
  void End(const grpc::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Calls& calls_;
  Operations& operations_;
  const Options options_;
  v1::Operation* const response_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  grpc::Alarm alarm_;
  std::unique_ptr<Changes::Subscription> subscription_;
  Mutex mutex_;
  bool busy_ ABSL_GUARDED_BY(mutex_) = false;  // a look is under way
  bool dirty_ ABSL_GUARDED_BY(mutex_) = false;
  bool time_is_up_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool alarm_pending_ ABSL_GUARDED_BY(mutex_) = false;
  bool done_ ABSL_GUARDED_BY(mutex_) = false;  // OnDone() came
};

}  // namespace modeld
