#include "server/rpc/inference_service.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <utility>

#include "server/base/mutex.h"
#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

std::string Method(const char* name) { return std::string("modeld.v1.Inference/") + name; }

// What the caller gets when the engine's stream ended with `status`.
grpc::Status ForCaller(const grpc::Status& status, const std::string& model_name) {
  // An engine's own errors carry details; a broken connection does not.
  const bool lost =
      status.error_details().empty() && (status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                                         status.error_code() == grpc::StatusCode::UNKNOWN ||
                                         status.error_code() == grpc::StatusCode::INTERNAL);
  if (!lost) return status;
  return ToGrpcStatus(Unavailable(
      Reason::kEngineLost,
      "the engine of model \"" + model_name + "\" died under the request; it is being loaded again",
      std::chrono::seconds(2)));
}

bool NamesNoModel(const absl::Status& status) { return HasReason(status, Reason::kModelNotFound); }

}  // namespace

absl::StatusOr<std::string> ModelNameOf(const grpc::ByteBuffer& request) {
  using google::protobuf::internal::WireFormatLite;
  grpc::ByteBuffer copy(request);  // shares the slices
  grpc::ProtoBufferReader reader(&copy);
  google::protobuf::io::CodedInputStream input(&reader);
  std::string name;
  while (const uint32_t tag = input.ReadTag()) {
    if (tag == WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_LENGTH_DELIMITED)) {
      if (!WireFormatLite::ReadBytes(&input, &name)) {
        return InvalidField("model_name", "the request is no protobuf message");
      }
    } else if (!WireFormatLite::SkipField(&input, tag)) {
      return InvalidField("model_name", "the request is no protobuf message");
    }
  }
  if (name.empty()) return InvalidField("model_name", "is empty");
  return name;
}

// One server stream. Two reactors share this object: the server's (caller's side) and `Upstream`
// (engine's side); it is deleted when both are done. One write is in flight at most, because the
// engine's next message is read only after it.
class InferenceService::StreamForward final : public grpc::ServerWriteReactor<grpc::ByteBuffer> {
 public:
  StreamForward(InferenceService& service, grpc::CallbackServerContext* context,
                const grpc::ByteBuffer& request, const char* name)
      : service_(service),
        context_(context),
        request_(request),
        name_(name),
        method_(Method(name)) {
    Route();
  }

  void OnWriteDone(bool ok) override {
    if (ok) {
      upstream_.StartRead(&message_);
      return;
    }
    upstream_context_->TryCancel();
    upstream_.RemoveHold();
  }

  void OnDone() override { Release(); }

 private:
  class Upstream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
   public:
    explicit Upstream(StreamForward& owner) : owner_(owner) {}
    void OnReadDone(bool ok) override {
      if (ok) {
        owner_.StartWrite(&owner_.message_);
      } else {
        RemoveHold();  // OnDone() comes now
      }
    }
    void OnDone(const grpc::Status& status) override {
      owner_.End(ForCaller(status, owner_.model_name_));
      owner_.Release();
    }

   private:
    StreamForward& owner_;
  };

  void Route() {
    auto model_name = ModelNameOf(request_);
    if (!model_name.ok()) return Refuse(model_name.status());
    model_name_ = *std::move(model_name);
    auto handle = service_.router_.RouteNow(model_name_);
    if (!NamesNoModel(handle.status())) return Begin(std::move(handle));
    if (!service_.routing_.Run([this] { Begin(service_.router_.Route(model_name_)); })) {
      Refuse(
          Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1)));
    }
  }

  void Begin(absl::StatusOr<EngineHandle> handle) {
    if (!handle.ok()) return Refuse(handle.status());
    handle_ = *std::move(handle);
    upstream_context_ = grpc::ClientContext::FromCallbackServerContext(*context_);
    stub_ = std::make_unique<grpc::GenericStub>(handle_.channel());
    stub_->PrepareBidiStreamingCall(upstream_context_.get(), "/" + method_, {}, &upstream_);
    ++users_;
    upstream_.AddHold();  // reads are started from the server's reactor
    upstream_.StartWriteLast(&request_, grpc::WriteOptions());
    upstream_.StartRead(&message_);
    upstream_.StartCall();
  }

  void Refuse(const absl::Status& error) { End(ToGrpcStatus(error)); }

  void End(const grpc::Status& status) {
    service_.calls_.Count(method_, status.error_code(), start_);
    if (handle_) service_.calls_.ObserveInference(model_name_, name_, start_);
    handle_ = {};  // an unload need not wait for the caller to read its status
    Finish(status);
  }

  void Release() {
    if (--users_ == 0) delete this;
  }

  InferenceService& service_;
  grpc::CallbackServerContext* const context_;
  const grpc::ByteBuffer request_;
  const char* const name_;  // "Generate"
  const std::string method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string model_name_;
  EngineHandle handle_;
  std::unique_ptr<grpc::ClientContext> upstream_context_;
  std::unique_ptr<grpc::GenericStub> stub_;
  grpc::ByteBuffer message_;  // belongs to the read or the write in flight
  Upstream upstream_{*this};
  std::atomic<int> users_{1};
};

// One unary call; deleted when gRPC and the engine are both through with it.
class InferenceService::UnaryForward final : public grpc::ServerUnaryReactor {
 public:
  UnaryForward(InferenceService& service, grpc::CallbackServerContext* context,
               const grpc::ByteBuffer* request, grpc::ByteBuffer* response, const char* name)
      : service_(service),
        context_(context),
        request_(request),
        response_(response),
        name_(name),
        method_(Method(name)) {
    Route();
  }

  void OnDone() override { Release(); }

 private:
  void Route() {
    auto model_name = ModelNameOf(*request_);
    if (!model_name.ok()) return End(ToGrpcStatus(model_name.status()));
    model_name_ = *std::move(model_name);
    auto handle = service_.router_.RouteNow(model_name_);
    if (!NamesNoModel(handle.status())) return Begin(std::move(handle));
    if (!service_.routing_.Run([this] { Begin(service_.router_.Route(model_name_)); })) {
      End(ToGrpcStatus(
          Unavailable(Reason::kQueueFull, "too many calls are waiting", std::chrono::seconds(1))));
    }
  }

  void Begin(absl::StatusOr<EngineHandle> handle) {
    if (!handle.ok()) return End(ToGrpcStatus(handle.status()));
    handle_ = *std::move(handle);
    upstream_context_ = grpc::ClientContext::FromCallbackServerContext(*context_);
    stub_ = std::make_unique<grpc::GenericStub>(handle_.channel());
    ++users_;
    stub_->UnaryCall(upstream_context_.get(), "/" + method_, {}, request_, response_,
                     [this](grpc::Status status) {
                       End(ForCaller(status, model_name_));
                       Release();
                     });
  }

  void End(const grpc::Status& status) {
    service_.calls_.Count(method_, status.error_code(), start_);
    if (handle_) service_.calls_.ObserveInference(model_name_, name_, start_);
    handle_ = {};
    Finish(status);
  }

  void Release() {
    if (--users_ == 0) delete this;
  }

  InferenceService& service_;
  grpc::CallbackServerContext* const context_;
  const grpc::ByteBuffer* const request_;
  grpc::ByteBuffer* const response_;
  const char* const name_;  // "Generate"
  const std::string method_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string model_name_;
  EngineHandle handle_;
  std::unique_ptr<grpc::ClientContext> upstream_context_;
  std::unique_ptr<grpc::GenericStub> stub_;
  std::atomic<int> users_{1};
};

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Generate(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return new StreamForward(*this, context, *request, "Generate");
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* InferenceService::Chat(
    grpc::CallbackServerContext* context, const grpc::ByteBuffer* request) {
  return new StreamForward(*this, context, *request, "Chat");
}

grpc::ServerUnaryReactor* InferenceService::Embed(grpc::CallbackServerContext* context,
                                                  const grpc::ByteBuffer* request,
                                                  grpc::ByteBuffer* response) {
  return new UnaryForward(*this, context, request, response, "Embed");
}

grpc::ServerUnaryReactor* InferenceService::Tokenize(grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request,
                                                     grpc::ByteBuffer* response) {
  return new UnaryForward(*this, context, request, response, "Tokenize");
}

grpc::ServerUnaryReactor* InferenceService::Detokenize(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request,
                                                       grpc::ByteBuffer* response) {
  return new UnaryForward(*this, context, request, response, "Detokenize");
}

grpc::ServerUnaryReactor* InferenceService::ApplyChatTemplate(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  return new UnaryForward(*this, context, request, response, "ApplyChatTemplate");
}

}  // namespace modeld
