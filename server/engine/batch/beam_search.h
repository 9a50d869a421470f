// Beam search as transformers' GenerationMixin._beam_search has it, as a function of scores.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "server/core/sampling.h"
#include "server/engine/batch/request.h"

namespace modeld {

// A continuation of the prompt.
struct Hypothesis {
  std::vector<int64_t> tokens;
  std::vector<PositionLogprobs> logprobs;  // one for each token, or none
  // Running: the sum of its tokens' scores. Finished: that over its length to the power of
  // length_penalty.
  float score = 0;
  bool ended = false;  // its last token is an end
};

// Scores are float32 and are added as the reference adds them. One thread at a time.
class BeamSearch {
 public:
  struct Options {
    int num_beams = 1;
    double length_penalty = 1;
    EarlyStopping early_stopping = EarlyStopping::kNo;
    int64_t max_tokens = 1;
    std::vector<int64_t> end_token_ids;  // without repetition
  };
  explicit BeamSearch(Options options);

  // Best first; one without tokens at the beginning.
  const std::vector<Hypothesis>& running() const { return running_; }

  // Log-probabilities of `token_id` behind running()[beam].
  using LogprobsAt = std::function<PositionLogprobs(int beam, int64_t token_id)>;

  // Replaces running() by its best continuations; scores[i][t] is that of token t behind
  // running()[i]. Says which one each continues; no one when no token has a score above -Inf.
  // `logprobs_at` may be empty.
  std::vector<int> Advance(std::span<const std::vector<float>> scores,
                           const LogprobsAt& logprobs_at);

  // Whether nothing better can come, or is allowed to.
  bool done() const { return done_; }

  // The `n` best finished ones, best first; before the end running ones, as if they finished now,
  // stand where finished ones lack.
  std::vector<Hypothesis> Best(int n) const;

 private:
  struct Candidate {
    float score = 0;
    int beam = 0;
    int64_t token_id = 0;
  };
  std::vector<Candidate> BestCandidates(std::span<const std::vector<float>> scores) const;
  bool IsEnd(int64_t token_id) const;
  float Penalised(float score, int64_t length) const;
  void Finish(Hypothesis hypothesis);
  bool CanImprove(int64_t length) const;

  const Options options_;
  std::vector<Hypothesis> running_;
  std::vector<Hypothesis> finished_;  // best first, at most num_beams
  bool done_ = false;
};

}  // namespace modeld
