// Runs all generations of one model on one thread: each step is one forward over those that can go
// on.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/engine/batch/histogram.h"
#include "server/engine/batch/request.h"
#include "server/engine/batch/sequence.h"
#include "server/engine/models/model.h"

namespace modeld {

// Counters begin at 0 with the scheduler.
struct SchedulerStats {
  SchedulerStats();  // empty histograms with the bounds of modeld's metrics

  int64_t active = 0;   // with a state in the model
  int64_t waiting = 0;  // without one
  double kv_used_ratio = 0;
  int64_t steps = 0;          // forwards; stands still when there is nothing to do
  int64_t prompt_tokens = 0;  // read
  int64_t cached_tokens = 0;  // of prompts, whose state was there already
  int64_t generated_tokens = 0;
  int64_t preemptions = 0;  // states given back to make room
  // {method, "stop"|"length"|"cancelled"|"tool_calls"|"error"} -> how many.
  std::map<std::pair<std::string, std::string>, int64_t> finished;
  Histogram queue;
  Histogram time_to_first_token;
  Histogram inter_token;
};

// First come, first served, while the model's memory lasts; prompts are read in chunks beside the
// decoding of others. When memory does not last, readers that are too slow lose their state first
// and then the youngest does; its tokens are read again later. The oldest always goes on, so there
// is no deadlock. Cancellation and deadlines take effect, and free the state, within one step.
// The prompt of a request with several choices is read once, and what the model has left of an
// earlier sequence that begins alike is not read again.
// Thread-safe. The destructor ends what runs as CANCELLED.
class Scheduler {
 public:
  struct Options {
    int sequences_max = 64;            // in one step
    int waiting_max = 512;             // Submit() refuses more
    int64_t prefill_tokens_max = 512;  // prompt tokens in one step, beside the decoding ones
    int64_t scored_tokens_max = 64;    // those with log-probabilities: each has a row of logits
  };

  // Both outlive the scheduler. `model` belongs to the step thread from now on.
  Scheduler(const Options& options, CausalLm& model, Clock& clock);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // QUEUE_FULL when waiting_max wait; MODEL_NOT_READY after Drain(). The generation ends by itself
  // in every other case.
  absl::Status Submit(std::shared_ptr<Generation> generation) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes nothing new, waits at most `timeout` for the rest and ends it as CANCELLED. How many that
  // were. Blocks.
  int64_t Drain(std::chrono::milliseconds timeout) ABSL_LOCKS_EXCLUDED(mutex_);

  SchedulerStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // What one forward is about.
  struct Batch {
    std::vector<Segment> segments;
    std::vector<Sequence*> sequences;
    int64_t prefill_tokens = 0;
    int64_t scored_tokens = 0;
  };

  void Run(const std::stop_token& stop);
  void TakeArrivals() ABSL_LOCKS_EXCLUDED(mutex_);
  void EndUnwanted();
  Batch Plan();
  void AddRunning(Batch& batch);
  void Admit(Batch& batch);
  void Begin(Sequence& sequence);
  int64_t TokensNow(const Sequence& sequence, const Batch& batch) const;
  void AddSegment(Sequence& sequence, int64_t tokens, Batch& batch);
  bool ReserveOrPreempt(Sequence& sequence, int64_t length);
  Sequence* PreemptionVictim() const;
  bool PreemptPaused();
  void Preempt(Sequence& sequence);
  bool IsAlone(const Sequence& sequence) const;
  void EndUnfit(Sequence& sequence);
  void Step(const Batch& batch);
  std::optional<GenerationEnd> TakeRows(Sequence& sequence, const Segment& segment,
                                        std::span<const float> rows, Sequence::Time now);
  void Branch(Sequence& leader, std::span<const float> logits, Sequence::Time now);
  std::optional<GenerationEnd> Advance(Sequence& sequence, std::span<const float> logits,
                                       Sequence::Time now);
  void Count(Sequence& sequence, int64_t new_tokens) ABSL_LOCKS_EXCLUDED(mutex_);
  void CountCached(Sequence& sequence) ABSL_LOCKS_EXCLUDED(mutex_);
  void Retire(Sequence& sequence, const GenerationEnd& end);
  void Settle(const std::shared_ptr<Generation>& generation, std::vector<OutputPiece> last_pieces)
      ABSL_LOCKS_EXCLUDED(mutex_);
  Sequence& InsertSibling(std::unique_ptr<Sequence> sibling);

  // In scheduler_beams.cc.
  void StepBeams(const std::shared_ptr<BeamGroup>& group, Sequence::Time now);
  bool ShareStates(BeamGroup& group, const std::vector<int>& parents);
  void Fold(BeamGroup& group);
  void Bury(std::span<Sequence* const> sequences);
  void RetireBeams(BeamGroup& group, GenerationEnd end);
  void Publish() ABSL_LOCKS_EXCLUDED(mutex_);
  std::optional<std::chrono::steady_clock::time_point> NextDeadline() const;

  const Options options_;
  CausalLm& model_;
  Clock& clock_;
  const std::shared_ptr<Wakeup> wakeup_ = std::make_shared<Wakeup>();

  // Of the step thread, oldest first.
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<std::unique_ptr<Sequence>> buried_;  // beams that are gone, but in a plan perhaps
  bool memory_changed_ = false;  // while planning: somebody lost his state, so nobody is admitted

  mutable Mutex mutex_;
  CondVar idle_;
  std::vector<std::unique_ptr<Sequence>> arrivals_ ABSL_GUARDED_BY(mutex_);
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
  int64_t unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t waiting_ ABSL_GUARDED_BY(mutex_) = 0;  // of sequences_, at the last look
  int64_t cut_off_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<int64_t> next_id_ = 0;
  std::atomic<bool> cuts_off_ = false;
  std::jthread thread_;  // last, so that it ends before what it uses
};

}  // namespace modeld
