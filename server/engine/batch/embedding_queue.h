// Makes the vectors of all requests of one model on one thread: each pass is one forward over texts
// of whoever waits.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/engine/batch/request.h"
#include "server/engine/batch/scheduler.h"
#include "server/engine/models/text_embedder.h"

namespace modeld {

// What came out of an EmbeddingJob.
struct EmbeddingResult {
  std::vector<std::vector<float>> vectors;  // of each text, in order
  GenerationUsage usage;                    // without generated tokens
};

// One request. Shared by the caller and the queue; thread-safe.
class EmbeddingJob {
 public:
  using Deadline = std::optional<std::chrono::steady_clock::time_point>;
  // Called once, from the queue's thread with no lock held. It must not block.
  using Done = std::function<void(absl::StatusOr<EmbeddingResult>)>;

  // `texts` is not empty.
  EmbeddingJob(std::vector<TokenizedText> texts, Deadline deadline, Done done);

  const std::vector<TokenizedText>& texts() const { return texts_; }
  const Deadline& deadline() const { return deadline_; }
  void Finish(absl::StatusOr<EmbeddingResult> result) const { done_(std::move(result)); }

  // Ends the job within one pass, as CANCELLED.
  void Cancel() { cancelled_ = true; }
  bool cancelled() const { return cancelled_; }

 private:
  const std::vector<TokenizedText> texts_;
  const Deadline deadline_;
  const Done done_;
  std::atomic<bool> cancelled_ = false;
};

// A pass takes one text of each job by turns until it is full, so that a short request does not
// wait for a long list; texts of a job are taken in the order of their lengths, and those of a pass
// are computed in that order, as neighbours of the same length are cheaper. Cancellation and
// deadlines take effect within one pass. Thread-safe. The destructor ends what is left as
// CANCELLED.
class EmbeddingQueue {
 public:
  struct Options {
    int waiting_max = 512;      // jobs; Submit() refuses more
    int64_t pass_tokens = 512;  // of a pass, unless one text has more
  };
  // Vectors of texts; may throw.
  using Embed =
      std::function<std::vector<std::vector<float>>(std::span<const TokenizedText* const> texts)>;

  // `clock` outlives the queue. `embed` is called from its thread only.
  EmbeddingQueue(const Options& options, Embed embed, Clock& clock);
  ~EmbeddingQueue();
  EmbeddingQueue(const EmbeddingQueue&) = delete;
  EmbeddingQueue& operator=(const EmbeddingQueue&) = delete;

  // QUEUE_FULL when waiting_max jobs are unfinished; MODEL_NOT_READY after Drain(). The job ends by
  // itself in every other case.
  absl::Status Submit(std::shared_ptr<EmbeddingJob> job) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes nothing new, waits at most `timeout` for the rest and ends it as CANCELLED. How many that
  // were. Blocks.
  int64_t Drain(std::chrono::milliseconds timeout) ABSL_LOCKS_EXCLUDED(mutex_);

  SchedulerStats Stats() const ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  // A job on its way.
  struct Work {
    std::shared_ptr<EmbeddingJob> job;
    std::vector<size_t> order;  // of its texts, shortest first
    size_t next = 0;            // in `order`
    size_t done = 0;
    EmbeddingResult result;
    std::chrono::steady_clock::time_point submitted;
    std::optional<std::chrono::steady_clock::time_point> started;
  };
  struct Item {
    Work* work;
    size_t text;
    const TokenizedText& tokens() const { return work->job->texts()[text]; }
  };

  void Run(const std::stop_token& stop);
  bool AwaitWork(const std::stop_token& stop) ABSL_LOCKS_EXCLUDED(mutex_);
  void EndUnwanted();
  std::vector<Item> NextPass();
  void RunPass(const std::vector<Item>& pass);
  void EndFinished();
  void End(size_t index, const absl::Status& status, const char* label) ABSL_LOCKS_EXCLUDED(mutex_);

  const Options options_;
  const Embed embed_;
  Clock& clock_;

  // Of the queue's thread, oldest first.
  std::vector<std::unique_ptr<Work>> works_;
  size_t turn_ = 0;  // whose text a pass takes first

  mutable Mutex mutex_;
  CondVar changed_;
  std::vector<std::unique_ptr<Work>> arrivals_ ABSL_GUARDED_BY(mutex_);
  SchedulerStats stats_ ABSL_GUARDED_BY(mutex_);
  int64_t unfinished_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t cut_off_ ABSL_GUARDED_BY(mutex_) = 0;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::atomic<bool> cuts_off_ = false;
  std::jthread thread_;  // last, so that it ends before what it uses
};

}  // namespace modeld
