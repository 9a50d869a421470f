// One generation between the service that wants it and the step thread that makes it: what is
// asked, what came out of each choice and was not read yet, and how they ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/core/sampling.h"
#include "server/engine/batch/answer_grammar.h"
#include "server/engine/batch/answer_parts.h"
#include "server/engine/chat/answer_piece.h"

namespace modeld {

// Natural logarithm of a token's probability.
struct TokenLogprob {
  int64_t token_id = 0;
  double logprob = 0;

  bool operator==(const TokenLogprob&) const = default;
};

// Of one position, before penalties, temperature and filters.
struct PositionLogprobs {
  TokenLogprob chosen;
  std::vector<TokenLogprob> top;  // likeliest first
};

// The numbers are those of the proto.
enum class FinishReason { kStop = 1, kLength = 2, kCancelled = 3, kToolCalls = 4 };

struct GenerationUsage {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;  // the end-of-sequence token included
  int64_t cached_tokens = 0;
  int64_t reasoning_tokens = 0;            // of the generated ones
  double queue_seconds = 0;                // until the first step
  double time_to_first_token_seconds = 0;  // 0 without a token
  double total_seconds = 0;
};

struct GenerationEnd {
  absl::Status status;  // not OK: failed, and `reason` means nothing
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> stop_match;  // the stop string that ended it
  std::optional<int64_t> stop_token_id;   // the end-of-sequence or stop token that ended it
  std::optional<double> score;            // by which choices were ranked
  GenerationUsage usage;                  // of the choice; in the last piece of all: of the request
};

// What is new of one choice since its piece before.
struct OutputPiece {
  int choice = 0;
  std::string text;
  std::string reasoning;
  std::vector<ToolCallPiece> tool_calls;
  std::vector<int64_t> token_ids;
  std::vector<PositionLogprobs> logprobs;         // one for each token, or none
  std::vector<PositionLogprobs> prompt_logprobs;  // in pieces of choice 0
  std::optional<GenerationEnd> end;               // in the last piece of the choice
  bool last = false;                              // no choice has more
};

// The parts of a text, which take its place.
void SetParts(AnswerPiece parts, OutputPiece& piece);

// The text that becomes certain with one more token; without a token: what is left at the end.
// Called from the step thread only.
using TokenText = std::function<std::string(std::optional<int64_t> token_id)>;

struct GenerationRequest {
  std::string method;           // "Generate" or "Chat", for the counters
  std::vector<int64_t> prompt;  // not empty, every id below the model's vocab_size()
  std::string cache_salt;       // what is left of earlier prompts is shared among equal ones
  Sampling sampling;
  std::vector<int64_t> eos_token_ids;
  std::function<TokenText()> new_token_text;  // for one choice; Scheduler::Submit() calls it
  std::optional<std::string> echo_text;       // begins the text of each choice
  std::optional<AnswerStructure> structure;
  AnswerPartsOptions parts;
  std::optional<std::chrono::steady_clock::time_point> deadline;
  int unread_tokens_max = 256;  // a choice pauses while so many of its tokens were not read
};

// A bell that the step thread waits for. Thread-safe.
class Wakeup {
 public:
  void Ring() ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for a ring since the last call that returned, at most until `deadline`.
  void Await(std::optional<std::chrono::steady_clock::time_point> deadline)
      ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  Mutex mutex_;
  CondVar rang_;
  bool ringing_ ABSL_GUARDED_BY(mutex_) = false;
};

// Shared by the reader (one thread at a time) and the scheduler. Thread-safe.
//
// Has Sampling::best_of choices. When only the n best are wanted, nothing is read before all have
// ended; else pieces of all choices are read as they come. The error of one choice ends all.
class Generation {
 public:
  // Why what has not ended yet shall end.
  struct Stopped {
    absl::Status status;
    FinishReason reason;
  };

  // `on_output` is called when there is something to Take() after a Take() that found nothing (and
  // for the first piece), from the step thread with no lock held. It must not block.
  Generation(GenerationRequest request, std::function<void()> on_output);

  const GenerationRequest& request() const { return request_; }

  // What is new of a choice, or nothing yet. No choice waits for ever behind another one.
  std::optional<OutputPiece> Take() ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the generation within one step; its last pieces say CANCELLED.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

  // For the scheduler. `wakeup` rings after Cancel() and when a full buffer was read.
  void Attach(std::shared_ptr<Wakeup> wakeup) ABSL_LOCKS_EXCLUDED(mutex_);
  void Append(OutputPiece piece) ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<Stopped> stopped() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Choices that have not ended.
  int unended() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether unread_tokens_max tokens of the choice wait for the reader.
  bool full(int choice) const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Choice {
    OutputPiece unread;
    bool has_unread = false;
  };
  bool Full(const OutputPiece& unread) const;
  void NoteEnd(const GenerationEnd& end) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void KeepBest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const GenerationRequest request_;
  const bool holds_back_;  // until all choices have ended
  const std::function<void()> on_output_;
  mutable Mutex mutex_;
  std::vector<Choice> choices_ ABSL_GUARDED_BY(mutex_);
  size_t next_choice_ ABSL_GUARDED_BY(mutex_) = 0;  // looked at first by Take()
  int unended_ ABSL_GUARDED_BY(mutex_);
  int untaken_ends_ ABSL_GUARDED_BY(mutex_);
  GenerationUsage usage_ ABSL_GUARDED_BY(mutex_);  // of the choices that have ended
  bool reader_waits_ ABSL_GUARDED_BY(mutex_) = true;
  std::optional<Stopped> stopped_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<Wakeup> wakeup_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
