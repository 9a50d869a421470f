// modeld.v1.Inference on the engine's socket.
#pragma once

#include <grpcpp/grpcpp.h>

#include "modeld/v1/inference.grpc.pb.h"
#include "server/base/executor.h"
#include "server/engine/serving_model.h"

namespace modeld {

// Answers for the one loaded model; the daemon has routed by model_name already, so it is not
// looked at here. Tokenizers and templates run on the executor, never on gRPC's threads.
// MODEL_NOT_READY before a load, QUEUE_FULL when the executor's queue is full. Thread-safe.
class InferenceService final : public modeld::v1::Inference::CallbackService {
 public:
  // Both outlive the service, and the executor the server's calls.
  InferenceService(ModelSlot& slot, Executor& executor) : slot_(slot), executor_(executor) {}

  grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const modeld::v1::GenerateRequest* request) override;
  grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* Chat(
      grpc::CallbackServerContext* context, const modeld::v1::ChatRequest* request) override;
  grpc::ServerUnaryReactor* Embed(grpc::CallbackServerContext* context,
                                  const modeld::v1::EmbedRequest* request,
                                  modeld::v1::EmbedResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const modeld::v1::TokenizeRequest* request,
                                     modeld::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const modeld::v1::DetokenizeRequest* request,
                                       modeld::v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* ApplyChatTemplate(
      grpc::CallbackServerContext* context, const modeld::v1::ApplyChatTemplateRequest* request,
      modeld::v1::ApplyChatTemplateResponse* response) override;

 private:
  template <typename Prepare>
  grpc::ServerWriteReactor<modeld::v1::GenerateResponse>* Stream(const char* method,
                                                                 Prepare prepare);
  template <typename Answer>
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, Answer answer);

  ModelSlot& slot_;
  Executor& executor_;
};

}  // namespace modeld
