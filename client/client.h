// The C++ client library: typed stubs of a modeld and errors with their details.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/v1/inference.grpc.pb.h"
#include "modeld/v1/orchestrator.grpc.pb.h"
#include "modeld/v1/registry.grpc.pb.h"

namespace modeld {

// A connection to one modeld. Thread-safe.
//
//   modeld::Client client("127.0.0.1:50051");
//   modeld::v1::LoadModelRequest request;
//   request.set_model_name("smollm2");
//   auto operation = client.Call(&v1::Orchestrator::Stub::LoadModel, client.orchestrator(),
//   request); auto done = client.Watch(operation->name(), [](const v1::Operation&) {});
class Client {
 public:
  // `server` is HOST:PORT or unix:PATH. Connects when the first call is made.
  explicit Client(const std::string& server);

  v1::Registry::Stub& registry() const { return *registry_; }
  v1::Orchestrator::Stub& orchestrator() const { return *orchestrator_; }
  v1::Inference::Stub& inference() const { return *inference_; }
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // One unary call. The status has the server's ErrorInfo (DetailsOf in server/base/status.h).
  // UNAVAILABLE without a reason: the server was not reached.
  template <typename Stub, typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                Stub& stub, const Request& request) const {
    grpc::ClientContext context;
    Response response;
    const grpc::Status status = (stub.*method)(&context, request, &response);
    if (!status.ok()) return ToStatus(status);
    return response;
  }

  // Follows an operation to its end; `on_change` sees every message. The operation in its final
  // state, whatever that is. Picks the stream up again when the server restarts meanwhile, for at
  // most `patience`.
  absl::StatusOr<v1::Operation> Watch(
      const std::string& name, const std::function<void(const v1::Operation&)>& on_change,
      std::chrono::seconds patience = std::chrono::seconds(60)) const;

  // Streams an answer; `on_message` returns false to cancel.
  absl::Status Chat(const v1::ChatRequest& request,
                    const std::function<bool(const v1::GenerateResponse&)>& on_message) const;
  absl::Status Generate(const v1::GenerateRequest& request,
                        const std::function<bool(const v1::GenerateResponse&)>& on_message) const;

  static absl::Status ToStatus(const grpc::Status& status);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Registry::Stub> registry_;
  std::unique_ptr<v1::Orchestrator::Stub> orchestrator_;
  std::unique_ptr<v1::Inference::Stub> inference_;
};

// Whether `status` says that no server answered, rather than that one refused.
bool NotReached(const absl::Status& status);

}  // namespace modeld
