// Where one answer stands in the grammar that its request asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/executor.h"
#include "server/engine/batch/logits_processors.h"
#include "server/engine/text/grammar.h"

namespace modeld {

// What an answer has to look like.
struct AnswerStructure {
  std::shared_ptr<const Grammar> grammar;
  // Whether the structure begins with the token after `answer`, which is free until then; asked
  // after each token, on the step thread. It keeps no state, as a request may have several answers.
  // Without one the structure begins with the first token.
  std::function<bool(std::span<const int64_t> answer)> begins_after;
  Executor* mask_threads = nullptr;  // outlives the generation
};

// Belongs to the step thread, which never waits for the mask of another answer: one that is queued
// is computed by whoever needs it first.
class AnswerGrammar {
 public:
  // `end_token_ids` may be chosen where the answer is whole. Begins with the first mask at once.
  AnswerGrammar(AnswerStructure structure, std::vector<int64_t> end_token_ids);
  ~AnswerGrammar();
  AnswerGrammar(const AnswerGrammar&) = delete;
  AnswerGrammar& operator=(const AnswerGrammar&) = delete;

  // For the next token, valid until Accept(); nothing when the answer is whole and no token can
  // follow. The errors of GrammarState::Mask.
  absl::StatusOr<std::optional<TokenRules>> Next();

  // Goes on with the last token of `answer`, which is no end; whether the answer is whole and
  // nothing can follow. The next mask is computed from now on.
  absl::StatusOr<bool> Accept(std::span<const int64_t> answer);

 private:
  struct Work;
  void ComputeMask();

  const AnswerStructure structure_;
  const std::shared_ptr<Work> work_;  // of a mask thread too, while that computes
  bool begun_;
};

}  // namespace modeld
