// modeld.v1.Inference: finds the engine by the request's model_name and forwards the bytes as they
// are.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/v1/inference.grpc.pb.h"
#include "server/base/executor.h"
#include "server/control/router.h"
#include "server/rpc/calls.h"

namespace modeld {

// The raw forms of the methods keep the service in reflection while nothing is parsed.
using RawInference =
    v1::Inference::WithRawCallbackMethod_Generate<v1::Inference::WithRawCallbackMethod_Chat<
        v1::Inference::WithRawCallbackMethod_Embed<v1::Inference::WithRawCallbackMethod_Tokenize<
            v1::Inference::WithRawCallbackMethod_Detokenize<
                v1::Inference::WithRawCallbackMethod_ApplyChatTemplate<v1::Inference::Service>>>>>>;

// Thread-safe. Deadline and cancellation reach the engine; its status comes back as it is, but for
// an engine that died: UNAVAILABLE ENGINE_LOST.
class InferenceService final : public RawInference {
 public:
  // `routing` is for requests whose model is not known yet: they ask the database.
  InferenceService(Calls& calls, Router& router, Executor& routing)
      : calls_(calls), router_(router), routing_(routing) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* Generate(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Chat(grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request,
                                  grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* ApplyChatTemplate(grpc::CallbackServerContext* context,
                                              const grpc::ByteBuffer* request,
                                              grpc::ByteBuffer* response) override;

 private:
  class StreamForward;
  class UnaryForward;

  Calls& calls_;
  Router& router_;
  Executor& routing_;
};

// Field 1 (model_name of every request of Inference); empty when it is not set. INVALID_ARGUMENT
// when the bytes are no protobuf message.
absl::StatusOr<std::string> ModelNameOf(const grpc::ByteBuffer& request);

}  // namespace modeld
