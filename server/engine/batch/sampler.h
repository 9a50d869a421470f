// Chooses the next token of one sequence from its logits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/sampling.h"
#include "server/engine/batch/logits_processors.h"
#include "server/engine/batch/request.h"

namespace modeld {

struct SampledToken {
  int64_t token_id = 0;
  std::optional<PositionLogprobs> logprobs;  // when asked for, or needed to rank choices
};

// Applies what logits_processors.h has in its order. What is drawn depends on seed, choice and
// position alone, never on the other sequences of a batch or on time. One thread at a time.
class Sampler {
 public:
  struct Options {
    uint64_t seed = 0;
    uint32_t choice = 0;  // which choice of the request
    int64_t prompt_tokens = 0;
    std::vector<int64_t> end_token_ids;  // cannot come before Sampling::min_tokens
  };

  // `sampling` outlives the sampler.
  Sampler(const Sampling& sampling, Options options);

  // The token that follows `tokens`: the prompt and what was answered. Only their end is new since
  // the last call. INTERNAL for logits that are no distribution (a NaN, +Inf, or nothing above
  // -Inf), INVALID_FIELD when the request's bans leave no token.
  absl::StatusOr<SampledToken> Next(std::span<const int64_t> tokens, std::span<const float> logits,
                                    const TokenRules& rules = {});
  // The same for a token that is chosen already.
  absl::StatusOr<SampledToken> Take(int64_t token_id, std::span<const float> logits) const;

  // `scores` after what changes them, before they are drawn from; valid until the next call.
  std::span<const float> Scores(std::span<const int64_t> tokens, std::span<const float> scores,
                                const TokenRules& rules = {});

 private:
  bool ChangesScores(int64_t answered, const TokenRules& rules) const;
  void CountNew(std::span<const int64_t> tokens);
  void Process(std::span<const int64_t> tokens, int64_t answered, const TokenRules& rules);
  absl::Status NothingLeft(int64_t answered, const TokenRules& rules) const;
  int64_t Draw(std::span<const float> scores, int64_t answered);

  const Sampling& sampling_;
  const Options options_;
  const bool counts_tokens_;
  TokenCounts counts_;
  int64_t counted_ = 0;        // tokens that counts_ has seen
  std::vector<float> scores_;  // of the row at hand, when something changes them
  std::vector<Candidate> candidates_;
};

}  // namespace modeld
