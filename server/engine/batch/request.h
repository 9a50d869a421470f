// One generation between the service that wants it and the step thread that makes it: what is
// asked, what came out and was not read yet, and how it ended.
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
enum class FinishReason { kStop = 1, kLength = 2, kCancelled = 3 };

struct GenerationUsage {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;  // the end-of-sequence token included
  int64_t cached_tokens = 0;
  double queue_seconds = 0;                // until the first step
  double time_to_first_token_seconds = 0;  // 0 without a token
  double total_seconds = 0;
};

struct GenerationEnd {
  absl::Status status;  // not OK: failed, and `reason` means nothing
  FinishReason reason = FinishReason::kStop;
  std::optional<std::string> stop_match;  // the stop string that ended it
  std::optional<int64_t> stop_token_id;   // the end-of-sequence or stop token that ended it
  GenerationUsage usage;
};

// What is new since the piece before.
struct OutputPiece {
  std::string text;
  std::vector<int64_t> token_ids;
  std::vector<PositionLogprobs> logprobs;  // one for each token, or none
  std::optional<GenerationEnd> end;        // in the last piece only
};

// The text that becomes certain with one more token; without a token: what is left at the end.
using TokenText = std::function<std::string(std::optional<int64_t> token_id)>;

struct GenerationRequest {
  std::string method;           // "Generate" or "Chat", for the counters
  std::vector<int64_t> prompt;  // not empty, every id below the model's vocab_size()
  Sampling sampling;
  std::vector<int64_t> eos_token_ids;
  TokenText token_text;  // called from the step thread only
  std::optional<std::chrono::steady_clock::time_point> deadline;
  int unread_tokens_max = 256;  // the sequence pauses while so many tokens were not read
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
class Generation {
 public:
  // `on_output` is called when there is something to Take() after a Take() that found nothing (and
  // for the first piece), from the step thread with no lock held. It must not block.
  Generation(GenerationRequest request, std::function<void()> on_output);
  Generation(const Generation&) = delete;
  Generation& operator=(const Generation&) = delete;

  const GenerationRequest& request() const { return request_; }

  // Everything since the last call in one piece, or nothing yet. The piece with `end` is the last.
  std::optional<OutputPiece> Take() ABSL_LOCKS_EXCLUDED(mutex_);

  // Ends the generation within one step; its last piece says CANCELLED.
  void Cancel() ABSL_LOCKS_EXCLUDED(mutex_);

  // For the scheduler. `wakeup` rings after Cancel() and when a full buffer was read.
  void Attach(std::shared_ptr<Wakeup> wakeup) ABSL_LOCKS_EXCLUDED(mutex_);
  void Append(OutputPiece piece) ABSL_LOCKS_EXCLUDED(mutex_);
  bool cancelled() const ABSL_LOCKS_EXCLUDED(mutex_);
  // Whether unread_tokens_max tokens wait for the reader.
  bool full() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  const GenerationRequest request_;
  const std::function<void()> on_output_;
  mutable Mutex mutex_;
  OutputPiece unread_ ABSL_GUARDED_BY(mutex_);
  bool has_unread_ ABSL_GUARDED_BY(mutex_) = false;
  bool reader_waits_ ABSL_GUARDED_BY(mutex_) = true;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::shared_ptr<Wakeup> wakeup_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
