// One generation as the scheduler keeps it: its tokens, its state in the model, its text.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/batch/request.h"
#include "server/engine/batch/sampler.h"
#include "server/engine/batch/stop_strings.h"
#include "server/engine/models/model.h"

namespace modeld {

// Belongs to the step thread. With a state it runs; without one it waits, for the first time or
// again after it gave its state back.
class Sequence {
 public:
  using Time = std::chrono::steady_clock::time_point;

  // `id` rises with age: the smaller, the older. `seed` is used when the request has none.
  Sequence(int64_t id, std::shared_ptr<Generation> generation, uint64_t seed, Time now);

  int64_t id() const { return id_; }
  Generation& generation() const { return *generation_; }
  std::shared_ptr<Generation> Share() const { return generation_; }

  // Prompt and answer so far.
  std::span<const int64_t> tokens() const { return tokens_; }
  int64_t generated() const { return generated_; }
  // Tokens whose state is to be computed: 1 when it decodes.
  int64_t pending() const { return std::ssize(tokens_) - (state ? state->length() : 0); }

  // Notes that it takes part in a step at `now`.
  void Start(Time now);

  // Chooses the next token, hands it and its text out. How generation ended, when it did.
  std::optional<GenerationEnd> Advance(std::span<const float> logits, Time now);

  // The end of a generation that did not end by itself; hands out text that was held back.
  GenerationEnd Stop(const absl::Status& status, FinishReason reason, Time now);

  struct Timing {
    std::optional<double> time_to_first_token_seconds;
    std::optional<double> inter_token_seconds;
  };
  // Of the last token; each value is given once.
  Timing TakeTiming() { return std::exchange(timing_, {}); }

  std::unique_ptr<SequenceState> state;
  bool paused = false;  // its reader is slow: left out of steps; looked at once in each
  int64_t prompt_tokens_counted = 0;  // of the prompt, in the counters already

 private:
  GenerationEnd End(FinishReason reason, Time now) const;
  std::string RestOfText();
  bool EndsGeneration(int64_t token_id) const;

  const int64_t id_;
  const std::shared_ptr<Generation> generation_;
  const Time submitted_;
  const std::vector<int64_t> end_token_ids_;  // of the model and of the request
  Sampler sampler_;
  StopStrings stop_strings_;
  std::vector<int64_t> tokens_;
  int64_t generated_ = 0;
  std::optional<int64_t> stop_token_id_;
  std::optional<Time> started_;
  std::optional<Time> first_token_;
  Time last_token_;
  Timing timing_;
};

}  // namespace modeld
