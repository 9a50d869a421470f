#include "client/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <utility>

#include "server/base/clock.h"
#include "server/base/status.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

// The contract: messages up to 64 MiB on every hop.
constexpr int kMessageBytesMax = 64 << 20;

template <typename Reader, typename Message>
bool ReadAll(Reader& reader, grpc::ClientContext& context, Message& message,
             const std::function<bool(const Message&)>& on_message) {
  while (reader.Read(&message)) {
    if (!on_message(message)) {
      context.TryCancel();
      while (reader.Read(&message)) continue;
      return false;
    }
  }
  return true;
}

}  // namespace

Client::Client(const std::string& server) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  channel_ = grpc::CreateCustomChannel(server, grpc::InsecureChannelCredentials(), arguments);
  registry_ = v1::Registry::NewStub(channel_);
  orchestrator_ = v1::Orchestrator::NewStub(channel_);
  inference_ = v1::Inference::NewStub(channel_);
}

absl::Status Client::ToStatus(const grpc::Status& status) { return FromGrpcStatus(status); }

bool NotReached(const absl::Status& status) {
  return status.code() == absl::StatusCode::kUnavailable && ReasonOf(status).empty();
}

absl::StatusOr<v1::Operation> Client::Watch(
    const std::string& name, const std::function<void(const v1::Operation&)>& on_change,
    std::chrono::seconds patience) const {
  auto last_heard = std::chrono::steady_clock::now();
  while (true) {
    grpc::ClientContext context;
    v1::WatchOperationRequest request;
    request.set_name(name);
    const auto reader = orchestrator_->WatchOperation(&context, request);
    v1::Operation operation;
    while (reader->Read(&operation)) {
      last_heard = std::chrono::steady_clock::now();
      on_change(operation);
    }
    const grpc::Status status = reader->Finish();
    if (operation.done()) return operation;
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE && !status.ok()) {
      return ToStatus(status);
    }
    if (std::chrono::steady_clock::now() - last_heard > patience) {
      return status.ok() ? absl::UnavailableError("the stream ended before the operation did")
                         : ToStatus(status);
    }
    // The server restarts, or its database does.
    Clock::Real().Sleep(std::chrono::milliseconds(500), {});
  }
}

absl::Status Client::Chat(
    const v1::ChatRequest& request,
    const std::function<bool(const v1::GenerateResponse&)>& on_message) const {
  grpc::ClientContext context;
  const auto reader = inference_->Chat(&context, request);
  v1::GenerateResponse message;
  const bool whole = ReadAll(*reader, context, message, on_message);
  const grpc::Status status = reader->Finish();
  return whole ? ToStatus(status) : absl::OkStatus();
}

absl::Status Client::Generate(
    const v1::GenerateRequest& request,
    const std::function<bool(const v1::GenerateResponse&)>& on_message) const {
  grpc::ClientContext context;
  const auto reader = inference_->Generate(&context, request);
  v1::GenerateResponse message;
  const bool whole = ReadAll(*reader, context, message, on_message);
  const grpc::Status status = reader->Finish();
  return whole ? ToStatus(status) : absl::OkStatus();
}

}  // namespace modeld
