// What every gRPC call shares: threads for work that blocks, and the metrics by code.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <chrono>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "server/base/executor.h"
#include "server/metrics/metrics.h"

namespace modeld {

// gRPC's callback threads are few (2 on 2 cores, for all servers of the process), so nothing that
// blocks may run in a reactor: it goes to `executor`. Thread-safe.
class Calls {
 public:
  Calls(Executor& executor, Metrics& metrics) : executor_(executor), metrics_(metrics) {}

  // Runs `work` on the executor and finishes the call with what it says. `work` may use the call's
  // request, response and context until it returns. `method` is "modeld.v1.Registry/GetModel".
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const std::string& method,
                                   std::function<absl::Status()> work);

  // Counts a call that ended.
  void Count(const std::string& method, grpc::StatusCode code,
             std::chrono::steady_clock::time_point start);

  // Times an inference request that reached an engine; `method` is "Generate".
  void ObserveInference(const std::string& model_name, const std::string& method,
                        std::chrono::steady_clock::time_point start);

  Executor& executor() { return executor_; }

 private:
  Executor& executor_;
  Metrics& metrics_;
};

// The name of a code as in the documents: "OK", "NOT_FOUND".
std::string GrpcCodeName(grpc::StatusCode code);

}  // namespace modeld
