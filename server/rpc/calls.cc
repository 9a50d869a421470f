#include "server/rpc/calls.h"

#include <grpcpp/server_context.h>

#include <utility>

#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {

grpc::ServerUnaryReactor* Calls::Answer(grpc::CallbackServerContext* context,
                                        const std::string& method,
                                        std::function<absl::Status()> work) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto start = std::chrono::steady_clock::now();
  const bool accepted = executor_.Run([this, reactor, method, start, work = std::move(work)] {
    const grpc::Status status = ToGrpcStatus(work());
    Count(method, status.error_code(), start);
    reactor->Finish(status);
  });
  if (!accepted) {
    const absl::Status full =
        Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1));
    Count(method, grpc::StatusCode::RESOURCE_EXHAUSTED, start);
    reactor->Finish(ToGrpcStatus(full));
  }
  return reactor;
}

void Calls::Count(const std::string& method, grpc::StatusCode code,
                  std::chrono::steady_clock::time_point start) {
  const size_t slash = method.find('/');
  const std::string service = method.substr(0, slash);
  const std::string name = slash == std::string::npos ? "" : method.substr(slash + 1);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  metrics_.grpc_server_handled
      .Add({{"service", service}, {"method", name}, {"code", GrpcCodeName(code)}})
      .Increment();
  metrics_.grpc_server_duration_seconds.Add({{"service", service}, {"method", name}}, GrpcBuckets())
      .Observe(took.count());
}

void Calls::ObserveInference(const std::string& model_name, const std::string& method,
                             std::chrono::steady_clock::time_point start) {
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  metrics_.request_duration_seconds
      .Add({{"model", model_name}, {"method", method}}, RequestBuckets())
      .Observe(took.count());
}

std::string GrpcCodeName(grpc::StatusCode code) {
  return absl::StatusCodeToString(static_cast<absl::StatusCode>(code));
}

}  // namespace modeld
