// The one model of the process with all that answering needs, and the place where it stands.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/engine/batch/embedding_queue.h"
#include "server/engine/batch/scheduler.h"
#include "server/engine/chat_answer.h"
#include "server/engine/chat_prompt.h"
#include "server/engine/models/loader.h"
#include "server/engine/structure.h"
#include "server/engine/text/chat_template.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// Immutable but for scheduler, queue and structures; thread-safe.
struct ServingModel {
  std::string name;
  std::unique_ptr<Tokenizer> tokenizer;
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template;  // NO_CHAT_TEMPLATE: all else works
  SpecialTokens special_tokens;
  AnswerFormats answer_formats;  // without a chat template: nothing
  LoadedModel loaded;
  RequestLimits limits;
  Structures structures;
  // One of the two is there, last, so that its thread ends before the model.
  std::unique_ptr<Scheduler> scheduler;        // of a model that generates
  std::unique_ptr<EmbeddingQueue> embeddings;  // of one that makes vectors

  SchedulerStats Stats() const;
  // Of scheduler or queue.
  int64_t Drain(std::chrono::milliseconds timeout) const;
  // METHOD_NOT_SUPPORTED, naming what the model is for.
  absl::Status CheckGenerates(std::string_view method) const;
  absl::Status CheckEmbeds() const;
};

// Empty until a model was loaded. Thread-safe.
class ModelSlot {
 public:
  // MODEL_NOT_READY while it is empty.
  absl::StatusOr<std::shared_ptr<ServingModel>> Get() const ABSL_LOCKS_EXCLUDED(mutex_);
  void Set(std::shared_ptr<ServingModel> model) ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  mutable Mutex mutex_;
  std::shared_ptr<ServingModel> model_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
