// The stream of one Generate or Chat call: from a Generation to gRPC messages.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"
#include "server/base/mutex.h"
#include "server/engine/batch/request.h"
#include "server/engine/serving_model.h"

namespace modeld {

// What a call asks of the scheduler, once its prompt is tokenized.
struct PreparedGeneration {
  std::shared_ptr<ServingModel> model;
  GenerationRequest request;
};

// One write in flight; tokens that arrive meanwhile join the next message. Cancelled with the call.
// Deletes itself when gRPC is done with it.
class GenerationStream final : public grpc::ServerWriteReactor<modeld::v1::GenerateResponse> {
 public:
  GenerationStream() = default;

  // Exactly once, from any thread: starts the generation, or ends the call with the error.
  void Start(absl::StatusOr<PreparedGeneration> prepared) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void OnWriteDone(bool ok) override;
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override { delete this; }

  void WriteNext();
  void FillMessage(OutputPiece piece);

  std::shared_ptr<ServingModel> model_;
  Mutex mutex_;
  std::shared_ptr<Generation> generation_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  // Of whoever writes: one thread at a time, as there is one write in flight.
  Generation* source_ = nullptr;
  modeld::v1::GenerateResponse message_;
  bool broken_ = false;  // a write failed: nobody reads any more
  bool ended_ = false;
  bool echoes_ = false;  // the next message has the prompt's tokens
  absl::Status end_status_;
};

}  // namespace modeld
