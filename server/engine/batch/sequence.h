// One choice of a generation as the scheduler keeps it: its tokens, its state in the model, its
// text.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "server/engine/batch/answer_grammar.h"
#include "server/engine/batch/answer_parts.h"
#include "server/engine/batch/beam_group.h"
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

  // `id` is that of the request. `seed` is used when the request has none.
  Sequence(int64_t id, std::shared_ptr<Generation> generation, int choice, uint64_t seed, Time now);

  int64_t id() const { return id_; }
  int choice() const { return choice_; }
  Generation& generation() const { return *generation_; }
  std::shared_ptr<Generation> Share() const { return generation_; }

  // Prompt and answer so far.
  std::span<const int64_t> tokens() const { return tokens_; }
  int64_t generated() const { return generated_; }
  // Tokens whose state is to be computed: 1 when it decodes.
  int64_t pending() const { return std::ssize(tokens_) - (state ? state->length() : 0); }

  // Notes that it takes part in a step at `now`.
  void Start(Time now);
  // For a choice that begins behind the prompt: it has waited as long as `leader`.
  void CopyStart(const Sequence& leader) { started_ = leader.started_; }

  // Whether tokens of the prompt wait for their log-probabilities.
  bool scores_prompt() const { return prompt_scored_ + 1 < prompt_scored_end_; }
  // Hands out the log-probabilities of the prompt's tokens that follow from `logits`: rows that
  // belong to the tokens from `first` on.
  absl::Status ScorePrompt(int64_t first, std::span<const float> logits, int64_t vocab_size);

  // Chooses the next token, hands it and its text out; without one, when nothing can follow what is
  // there. How generation ended, when it did.
  std::optional<GenerationEnd> Advance(std::span<const float> logits, Time now);

  // For a beam: its answer is `answer` now.
  void Replace(std::span<const int64_t> answer);
  // Notes that the request has got a token at `now`.
  void NoteToken(Time now);

  // The end of a generation that did not end by itself; hands out text that was held back.
  GenerationEnd Stop(const absl::Status& status, FinishReason reason, Time now);

  struct Timing {
    std::optional<double> queue_seconds;                // of the request
    std::optional<double> time_to_first_token_seconds;  // of the request
    std::optional<double> inter_token_seconds;
  };
  // Of the last step; each value is given once.
  Timing TakeTiming() { return std::exchange(timing_, {}); }

  std::unique_ptr<SequenceState> state;
  // The other choices of the request, which begin with the state that this one has when the prompt
  // is read.
  std::vector<std::unique_ptr<Sequence>> followers;
  std::shared_ptr<BeamGroup> beams;  // that it is one of, with beam search
  bool paused = false;  // its reader is slow: left out of steps; looked at once in each
  // Tokens of the prompt that are in the counters already, and which of them were not read.
  int64_t prompt_tokens_counted = 0;
  int64_t cached_tokens = 0;

 private:
  GenerationEnd End(FinishReason reason, Time now) const;
  std::string RestOfText();
  bool EndsGeneration(int64_t token_id) const;

  const int64_t id_;
  const int choice_;
  const std::shared_ptr<Generation> generation_;
  const Time submitted_;
  const std::vector<int64_t> end_token_ids_;  // of the model and of the request
  Sampler sampler_;
  std::unique_ptr<AnswerGrammar> grammar_;  // null: the answer is free
  StopStrings stop_strings_;
  const TokenText token_text_;
  AnswerParts parts_;
  std::vector<int64_t> tokens_;
  int64_t generated_ = 0;
  double logprob_sum_ = 0;  // of generated tokens, where choices are ranked
  // Tokens of the prompt whose successor has its log-probability, and where that ends; 0: not asked
  // for.
  int64_t prompt_scored_ = 0;
  const int64_t prompt_scored_end_;
  std::optional<int64_t> stop_token_id_;
  std::optional<Time> started_;
  std::optional<Time> first_token_;
  Time last_token_;
  Timing timing_;
};

}  // namespace modeld
