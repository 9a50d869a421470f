// Chooses the next token of one sequence from its logits.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/sampling.h"
#include "server/engine/batch/request.h"

namespace modeld {

struct SampledToken {
  int64_t token_id = 0;
  std::optional<PositionLogprobs> logprobs;  // when Sampling::logprobs is set
};

// In the order of the contract: penalties, temperature, top_k, top_p, min_p, with the formulas of
// transformers. What is drawn depends on seed and position alone, never on the other sequences of a
// batch or on time. One thread at a time.
class Sampler {
 public:
  Sampler(const Sampling& sampling, std::span<const int64_t> prompt, uint64_t seed);

  // INTERNAL for logits that are no distribution: a NaN, +Inf, or nothing above -Inf.
  absl::StatusOr<SampledToken> Next(std::span<const float> logits);

 private:
  // How often a token stands in the answer; 0 for one of the prompt alone.
  using Counts = std::unordered_map<int64_t, int64_t>;
  struct Candidate {
    int64_t token_id = 0;
    double weight = 0;  // probability relative to the likeliest, after temperature
  };

  void Penalise();
  int64_t Draw();
  void KeepTopK();
  void KeepTopP();
  PositionLogprobs Logprobs(std::span<const float> logits, int64_t chosen) const;

  const Sampling sampling_;
  const uint64_t seed_;
  Counts counts_;
  uint64_t position_ = 0;      // tokens chosen so far
  std::vector<float> scores_;  // of the row at hand, penalised
  std::vector<Candidate> candidates_;
};

}  // namespace modeld
