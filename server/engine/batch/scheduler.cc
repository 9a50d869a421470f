#include "server/engine/batch/scheduler.h"

#include <algorithm>
#include <exception>
#include <random>
#include <stop_token>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "server/base/log.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// Room that an admission leaves for each sequence that runs, so that it does not lose its state
// again a step later: a block of a paged cache.
constexpr int64_t kHeadroomTokens = 16;

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

std::string_view FinishLabel(const GenerationEnd& end) {
  if (!end.status.ok()) return end.reason == FinishReason::kCancelled ? "cancelled" : "error";
  switch (end.reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "error";
}

// libtorch's messages go on with a backtrace.
std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

}  // namespace

// The bounds stand in server/metrics/metrics.cc: TimeToFirstTokenBuckets, InterTokenBuckets.
SchedulerStats::SchedulerStats()
    : time_to_first_token({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
                           1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560}),
      inter_token({0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1,
                   0.15,   0.2,   0.3,   0.5,   0.75, 1,    2.5,  5,    10,    80}) {}

Scheduler::Scheduler(const Options& options, CausalLm& model, Clock& clock)
    : options_(options),
      model_(model),
      clock_(clock),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

Scheduler::~Scheduler() {
  thread_.request_stop();
  wakeup_->Ring();
  thread_.join();
}

absl::Status Scheduler::Submit(std::shared_ptr<Generation> generation) {
  auto sequence = std::make_unique<Sequence>(0, generation, RandomSeed(), clock_.Steady());
  generation->Attach(wakeup_);
  {
    MutexLock lock(mutex_);
    if (draining_) return Error(Reason::kModelNotReady, "the model is being unloaded");
    const int64_t waiting = waiting_ + std::ssize(arrivals_);
    if (waiting >= options_.waiting_max) {
      return Error(
          Reason::kQueueFull,
          absl::StrCat(waiting, " requests wait already, at most ", options_.waiting_max, " may"),
          {{"waiting_requests", std::to_string(waiting)}});
    }
    arrivals_.push_back(std::move(sequence));
    ++unfinished_;
  }
  wakeup_->Ring();
  return absl::OkStatus();
}

int64_t Scheduler::Drain(std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(mutex_);
  draining_ = true;
  while (unfinished_ > 0 && idle_.WaitUntil(mutex_, deadline)) {
  }
  cuts_off_ = true;
  wakeup_->Ring();
  while (unfinished_ > 0) idle_.Wait(mutex_);
  return cut_off_;
}

SchedulerStats Scheduler::Stats() const {
  MutexLock lock(mutex_);
  SchedulerStats stats = stats_;
  stats.waiting = waiting_ + std::ssize(arrivals_);
  return stats;
}

void Scheduler::Run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    TakeArrivals();
    EndUnwanted();
    const Batch batch = Plan();
    Publish();
    if (!batch.segments.empty()) {
      Step(batch);
      Publish();
    } else if (!memory_changed_) {
      wakeup_->Await(NextDeadline());
    }
  }
  cuts_off_ = true;
  TakeArrivals();
  EndUnwanted();
  Publish();
}

void Scheduler::TakeArrivals() {
  MutexLock lock(mutex_);
  for (auto& sequence : arrivals_) sequences_.push_back(std::move(sequence));
  waiting_ += std::ssize(arrivals_);
  arrivals_.clear();
}

// Ends what was cancelled, is past its deadline or is to be cut off.
void Scheduler::EndUnwanted() {
  const Sequence::Time now = clock_.Steady();
  for (size_t i = 0; i < sequences_.size();) {
    Sequence& sequence = *sequences_[i];
    const std::optional<Sequence::Time> deadline = sequence.generation().request().deadline;
    absl::Status status;
    if (sequence.generation().cancelled()) {
      status = absl::CancelledError("the request was cancelled");
    } else if (deadline && now >= *deadline) {
      status = absl::DeadlineExceededError("the request's deadline passed");
    } else if (!cuts_off_) {
      ++i;
      continue;
    }
    if (cuts_off_ && status.ok()) {
      MutexLock lock(mutex_);
      ++cut_off_;
    }
    Retire(sequence, sequence.Stop(status, FinishReason::kCancelled, now));
  }
}

Scheduler::Batch Scheduler::Plan() {
  memory_changed_ = false;
  // Readers come and go meanwhile; a plan needs one answer.
  for (const auto& sequence : sequences_) sequence->paused = sequence->generation().full();
  Batch batch;
  AddRunning(batch);
  if (!memory_changed_) Admit(batch);
  return batch;
}

void Scheduler::AddRunning(Batch& batch) {
  // ReserveOrPreempt may end a sequence, hence the copy; it never ends one that is looked at later.
  std::vector<Sequence*> running;
  for (const auto& sequence : sequences_) {
    if (sequence->state && !sequence->paused) running.push_back(sequence.get());
  }
  for (Sequence* sequence : running) {
    if (std::ssize(batch.sequences) >= options_.sequences_max) return;
    if (!sequence->state) continue;  // gave it back a moment ago
    int64_t tokens = sequence->pending();
    if (tokens > 1) {
      tokens = std::min(tokens, options_.prefill_tokens_max - batch.prefill_tokens);
      if (tokens <= 0) continue;
    }
    if (!ReserveOrPreempt(*sequence, sequence->state->length() + tokens)) continue;
    AddSegment(*sequence, tokens, batch);
  }
}

// In order of age; the first that does not fit ends it, so that a long prompt is not overtaken for
// ever.
void Scheduler::Admit(Batch& batch) {
  std::vector<Sequence*> waiting;
  int64_t running = 0;
  for (const auto& sequence : sequences_) {
    if (sequence->paused) continue;
    if (sequence->state) {
      ++running;
    } else {
      waiting.push_back(sequence.get());
    }
  }
  for (Sequence* sequence : waiting) {
    const int64_t prefill_left = options_.prefill_tokens_max - batch.prefill_tokens;
    if (running >= options_.sequences_max || prefill_left <= 0) return;
    sequence->state = model_.NewSequence();
    // All of it at once: a prompt that is half read holds memory and gives nothing.
    const int64_t length = std::ssize(sequence->tokens());
    bool reserved = sequence->state->Reserve(length);
    while (!reserved && PreemptPaused()) reserved = sequence->state->Reserve(length);
    const bool leaves_room = running == 0 || model_.kv_tokens_total() == 0 ||
                             model_.kv_tokens_free() >= running * kHeadroomTokens;
    if (!reserved || !leaves_room) {
      sequence->state.reset();
      if (running > 0) return;
      EndUnfit(*sequence);
      continue;
    }
    ++running;
    AddSegment(*sequence, std::min(sequence->pending(), prefill_left), batch);
  }
}

void Scheduler::AddSegment(Sequence& sequence, int64_t tokens, Batch& batch) {
  const auto all = sequence.tokens();
  const auto begin = all.begin() + sequence.state->length();
  batch.segments.push_back({.state = sequence.state.get(),
                            .token_ids = {begin, begin + tokens},
                            .wants_logits = begin + tokens == all.end()});
  batch.sequences.push_back(&sequence);
  if (sequence.pending() > 1) batch.prefill_tokens += tokens;
  sequence.Start(clock_.Steady());
}

// False when `sequence` itself had to give its state back, or can never go on.
bool Scheduler::ReserveOrPreempt(Sequence& sequence, int64_t length) {
  while (!sequence.state->Reserve(length)) {
    Sequence* victim = PreemptionVictim();
    const auto holders = std::ranges::count_if(
        sequences_, [](const auto& other) { return other->state != nullptr; });
    if (victim == &sequence && holders == 1) {
      EndUnfit(sequence);
      return false;
    }
    Preempt(*victim);
    if (victim == &sequence) return false;
  }
  return true;
}

// The youngest of the paused ones, else the youngest. One that is part of the batch already is
// older than the one that needs room, so it is never that.
Sequence* Scheduler::PreemptionVictim() const {
  Sequence* youngest = nullptr;
  for (auto it = sequences_.rbegin(); it != sequences_.rend(); ++it) {
    if (!(*it)->state) continue;
    if ((*it)->paused) return it->get();
    if (youngest == nullptr) youngest = it->get();
  }
  return youngest;
}

bool Scheduler::PreemptPaused() {
  const auto paused = std::find_if(sequences_.rbegin(), sequences_.rend(),
                                   [](const auto& other) { return other->state && other->paused; });
  if (paused == sequences_.rend()) return false;
  Preempt(**paused);
  return true;
}

void Scheduler::Preempt(Sequence& sequence) {
  sequence.state.reset();
  memory_changed_ = true;
  MutexLock lock(mutex_);
  ++stats_.preemptions;
}

// Alone it does not fit: what there is was all that there can be.
void Scheduler::EndUnfit(Sequence& sequence) {
  memory_changed_ = true;
  absl::Status status;
  if (sequence.generated() == 0) {
    status = Error(
        Reason::kContextLengthExceeded,
        absl::StrCat("the prompt has ", sequence.tokens().size(),
                     " tokens; the cache for keys and values holds ", model_.kv_tokens_total()),
        {{"prompt_tokens", std::to_string(sequence.tokens().size())},
         {"kv_tokens", std::to_string(model_.kv_tokens_total())}});
  }
  Retire(sequence, sequence.Stop(status, FinishReason::kLength, clock_.Steady()));
}

void Scheduler::Step(const Batch& batch) {
  const auto rows = std::ranges::count_if(batch.segments, &Segment::wants_logits);
  absl::Status failure;
  at::Tensor logits;
  const float* row = nullptr;
  try {
    logits = model_.Forward(batch.segments);
    if (rows > 0) {
      logits = logits.view({rows, model_.vocab_size()}).contiguous();
      row = logits.data_ptr<float>();
    }
  } catch (const std::exception& e) {
    failure = Error(Reason::kInternal, "the forward pass failed: " + FirstLine(e.what()));
    LogError("step_failed", {{"sequences", batch.sequences.size()}, {"error", failure}});
  }
  {
    MutexLock lock(mutex_);
    ++stats_.steps;
  }
  const Sequence::Time now = clock_.Steady();
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    Sequence& sequence = *batch.sequences[i];
    std::optional<GenerationEnd> end;
    if (!failure.ok()) {
      end = sequence.Stop(failure, FinishReason::kStop, now);
    } else {
      const bool has_row = batch.segments[i].wants_logits;
      if (has_row) {
        end = sequence.Advance({row, static_cast<size_t>(model_.vocab_size())}, now);
        row += model_.vocab_size();
      }
      Count(sequence, has_row && (!end || end->status.ok()));
    }
    if (end) Retire(sequence, *std::move(end));
  }
}

void Scheduler::Count(Sequence& sequence, bool has_new_token) {
  const auto prompt = std::ssize(sequence.generation().request().prompt);
  const int64_t read = std::min(prompt, sequence.state->length());
  const Sequence::Timing timing = sequence.TakeTiming();
  MutexLock lock(mutex_);
  if (read > sequence.prompt_tokens_counted) {
    stats_.prompt_tokens += read - sequence.prompt_tokens_counted;
    sequence.prompt_tokens_counted = read;
  }
  if (has_new_token) ++stats_.generated_tokens;
  if (timing.time_to_first_token_seconds) {
    stats_.time_to_first_token.Observe(*timing.time_to_first_token_seconds);
  }
  if (timing.inter_token_seconds) stats_.inter_token.Observe(*timing.inter_token_seconds);
}

// Frees the state and counts before the reader hears of the end.
void Scheduler::Retire(Sequence& sequence, GenerationEnd end) {
  const std::shared_ptr<Generation> generation = sequence.Share();
  std::erase_if(sequences_, [&](const auto& other) { return other.get() == &sequence; });
  {
    MutexLock lock(mutex_);
    ++stats_.finished[{generation->request().method, std::string(FinishLabel(end))}];
  }
  Publish();
  generation->Append({.end = std::move(end)});
  MutexLock lock(mutex_);
  if (--unfinished_ == 0) idle_.NotifyAll();
}

void Scheduler::Publish() {
  const auto active = std::ranges::count_if(
      sequences_, [](const auto& sequence) { return sequence->state != nullptr; });
  const int64_t total = model_.kv_tokens_total();
  const int64_t used = total - model_.kv_tokens_free();
  MutexLock lock(mutex_);
  stats_.active = active;
  waiting_ = std::ssize(sequences_) - active;
  stats_.kv_used_ratio = total == 0 ? 0 : static_cast<double>(used) / static_cast<double>(total);
}

// By the machine's clock, which is the one that waits.
std::optional<std::chrono::steady_clock::time_point> Scheduler::NextDeadline() const {
  std::optional<Sequence::Time> next;
  for (const auto& sequence : sequences_) {
    const auto deadline = sequence->generation().request().deadline;
    if (deadline && (!next || *deadline < *next)) next = deadline;
  }
  if (!next) return std::nullopt;
  return std::chrono::steady_clock::now() + (*next - clock_.Steady());
}

}  // namespace modeld
