// The structure that a request asks its answer to have, from the request to a compiled grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"
#include "server/base/executor.h"
#include "server/base/mutex.h"
#include "server/core/request_limits.h"
#include "server/engine/batch/answer_grammar.h"
#include "server/engine/text/grammar.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// Nothing when the answer is free. INVALID_FIELD for more than one form, and beyond `limits`.
absl::StatusOr<std::optional<GrammarSource>> ReadStructure(const modeld::v1::Structure& structure,
                                                           const RequestLimits& limits);

// The grammars of one model, and the threads that compute their masks. What it takes is made with
// the first grammar. Thread-safe.
class Structures {
 public:
  // The structure of an answer that begins with its first token. `tokenizer` and `end_token_ids`
  // are the same in each call. The errors of GrammarCompiler.
  absl::StatusOr<AnswerStructure> Compile(const GrammarSource& source, const Tokenizer& tokenizer,
                                          std::span<const int64_t> end_token_ids)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Executor mask_threads_{{.threads = 2}};
  Mutex mutex_;
  std::optional<absl::StatusOr<std::unique_ptr<GrammarCompiler>>> compiler_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
