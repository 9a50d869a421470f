// One Embed call: from texts to tokens, through the queue, to the answer.
#pragma once

#include <grpcpp/grpcpp.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"
#include "server/base/mutex.h"
#include "server/engine/batch/embedding_queue.h"
#include "server/engine/serving_model.h"

namespace modeld {

// What goes before each text of a request.
struct Prompt {
  std::string text;
  int64_t tokens = 0;  // with the special ones before it
};
absl::StatusOr<Prompt> MeasurePrompt(const Tokenizer& tokenizer, const std::string& text);

// A text as the model reads it: its prompt before it, with the special tokens that the tokenizer
// adds, cut off behind `max_tokens` but for those at the end.
struct PreparedText {
  TokenizedText tokens;
  bool truncated = false;
};
absl::StatusOr<PreparedText> PrepareText(const Tokenizer& tokenizer, const Prompt& prompt,
                                         const std::string& text, int64_t max_tokens);

// Cancelled with the call. Deletes itself when gRPC is done with it.
class EmbeddingCall final : public grpc::ServerUnaryReactor {
 public:
  // Request and response are the call's.
  EmbeddingCall(const modeld::v1::EmbedRequest& request, EmbeddingJob::Deadline deadline,
                modeld::v1::EmbedResponse& response)
      : request_(request), deadline_(deadline), response_(response) {}

  // Exactly once, from any thread: submits the texts, or ends the call with the error.
  void Start(absl::StatusOr<std::shared_ptr<ServingModel>> model) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_);
  void OnDone() override { delete this; }

  absl::Status Submit() ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status CheckSize() const;
  absl::StatusOr<std::string> PromptText() const;
  void Answer(absl::StatusOr<EmbeddingResult> result);

  const modeld::v1::EmbedRequest& request_;
  const EmbeddingJob::Deadline deadline_;
  modeld::v1::EmbedResponse& response_;
  std::shared_ptr<ServingModel> model_;
  Mutex mutex_;
  std::shared_ptr<EmbeddingJob> job_ ABSL_GUARDED_BY(mutex_);
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace modeld
