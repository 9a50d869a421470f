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
    case FinishReason::kToolCalls:
      return "tool_calls";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "error";
}

// Beams of one search lose their states together, also those that were planned already.
template <typename Batch>
void RemoveStateless(Batch& batch) {
  for (size_t i = batch.sequences.size(); i-- > 0;) {
    if (batch.sequences[i]->state) continue;
    batch.sequences.erase(batch.sequences.begin() + static_cast<ptrdiff_t>(i));
    batch.segments.erase(batch.segments.begin() + static_cast<ptrdiff_t>(i));
  }
}

// libtorch's messages go on with a backtrace.
std::string FirstLine(std::string_view text) {
  return std::string(text.substr(0, text.find('\n')));
}

int64_t RowsOf(const Segment& segment) {
  return segment.wants_all_logits ? std::ssize(segment.token_ids)
                                  : static_cast<int64_t>(segment.wants_logits);
}

}  // namespace

// The bounds stand in server/metrics/metrics.cc: TimeToFirstTokenBuckets, InterTokenBuckets.
SchedulerStats::SchedulerStats()
    : queue({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
             1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560}),
      time_to_first_token({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
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
  generation->Attach(wakeup_);
  const int64_t id = next_id_++;
  const uint64_t seed = RandomSeed();
  const Sequence::Time now = clock_.Steady();
  auto leader = std::make_unique<Sequence>(id, generation, 0, seed, now);
  const Sampling& sampling = generation->request().sampling;
  const int sequences = sampling.num_beams > 1 ? 1 : sampling.best_of;
  for (int choice = 1; choice < sequences; ++choice) {
    leader->followers.push_back(std::make_unique<Sequence>(id, generation, choice, seed, now));
  }
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
    arrivals_.push_back(std::move(leader));
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

// Ends what was cancelled, has lost a choice to an error, is past its deadline or is to be cut off.
void Scheduler::EndUnwanted() {
  const Sequence::Time now = clock_.Steady();
  for (size_t i = 0; i < sequences_.size();) {
    Sequence& sequence = *sequences_[i];
    const std::optional<Sequence::Time> deadline = sequence.generation().request().deadline;
    Generation::Stopped why{.status = absl::OkStatus(), .reason = FinishReason::kCancelled};
    if (const auto stopped = sequence.generation().stopped()) {
      why = *stopped;
    } else if (deadline && now >= *deadline) {
      why.status = absl::DeadlineExceededError("the request's deadline passed");
    } else if (!cuts_off_) {
      ++i;
      continue;
    }
    Retire(sequence, sequence.Stop(why.status, why.reason, now));
  }
}

Scheduler::Batch Scheduler::Plan() {
  memory_changed_ = false;
  buried_.clear();
  // Readers come and go meanwhile; a plan needs one answer.
  for (const auto& sequence : sequences_) {
    sequence->paused = sequence->generation().full(sequence->beams ? 0 : sequence->choice());
  }
  Batch batch;
  AddRunning(batch);
  if (!memory_changed_) Admit(batch);
  RemoveStateless(batch);
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
    const int64_t tokens = TokensNow(*sequence, batch);
    if (tokens <= 0) continue;
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
    if (running >= options_.sequences_max || TokensNow(*sequence, batch) <= 0) return;
    Begin(*sequence);
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
    CountCached(*sequence);
    AddSegment(*sequence, TokensNow(*sequence, batch), batch);
  }
}

// With a state that holds what is left of its first tokens. Log-probabilities of a prompt need the
// logits of all of it.
void Scheduler::Begin(Sequence& sequence) {
  const auto known = sequence.scores_prompt() ? std::span<const int64_t>() : sequence.tokens();
  sequence.state = model_.ResumeSequence(known, sequence.generation().request().cache_salt);
}

// How many tokens of the sequence this step has room for.
int64_t Scheduler::TokensNow(const Sequence& sequence, const Batch& batch) const {
  const int64_t pending = sequence.pending();
  if (sequence.state && pending == 1) return 1;
  int64_t room = options_.prefill_tokens_max - batch.prefill_tokens;
  if (sequence.scores_prompt()) {
    room = std::min(room, options_.scored_tokens_max - batch.scored_tokens);
  }
  return std::min(pending, room);
}

void Scheduler::AddSegment(Sequence& sequence, int64_t tokens, Batch& batch) {
  const auto all = sequence.tokens();
  const auto begin = all.begin() + sequence.state->length();
  batch.segments.push_back({.state = sequence.state.get(),
                            .token_ids = {begin, begin + tokens},
                            .wants_logits = begin + tokens == all.end(),
                            .wants_all_logits = sequence.scores_prompt()});
  batch.sequences.push_back(&sequence);
  if (sequence.scores_prompt()) batch.scored_tokens += tokens;
  if (sequence.pending() > 1) batch.prefill_tokens += tokens;
  sequence.Start(clock_.Steady());
}

// False when `sequence` itself had to give its state back, or can never go on.
bool Scheduler::ReserveOrPreempt(Sequence& sequence, int64_t length) {
  while (!sequence.state->Reserve(length)) {
    if (IsAlone(sequence)) {
      EndUnfit(sequence);
      return false;
    }
    Preempt(*PreemptionVictim());
    if (!sequence.state) return false;
  }
  return true;
}

// Whether nobody else, but the other beams of its search, has a state.
bool Scheduler::IsAlone(const Sequence& sequence) const {
  return std::ranges::none_of(sequences_, [&](const auto& other) {
    const bool is_sibling = other->beams && other->beams == sequence.beams;
    return other->state && other.get() != &sequence && !is_sibling;
  });
}

// The youngest of the paused ones, else the youngest. One that is part of the batch already is
// older than the one that needs room, so it is never that, unless it is a beam of the same search.
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
  if (sequence.beams) {
    Fold(*sequence.beams);
  } else {
    sequence.state.reset();
  }
  memory_changed_ = true;
  MutexLock lock(mutex_);
  ++stats_.preemptions;
}

// Alone it does not fit: what there is was all that there can be.
void Scheduler::EndUnfit(Sequence& unfit) {
  Sequence& sequence = unfit.beams ? *unfit.beams->members.front() : unfit;
  memory_changed_ = true;
  absl::Status status;
  if (sequence.generated() == 0) {
    status = Error(
        Reason::kContextLengthExceeded,
        absl::StrCat("the prompt has ", sequence.tokens().size(),
                     " tokens; the cache for keys and values holds ", model_.kv_tokens_total()),
        {{"prompt_tokens", std::to_string(sequence.tokens().size())},
         {"kv_tokens", std::to_string(model_.kv_tokens_total())}});
  } else if (sequence.beams) {
    RetireBeams(*sequence.beams, sequence.Stop(status, FinishReason::kLength, clock_.Steady()));
    return;
  }
  Retire(sequence, sequence.Stop(status, FinishReason::kLength, clock_.Steady()));
}

void Scheduler::Step(const Batch& batch) {
  int64_t rows = 0;
  for (const Segment& segment : batch.segments) rows += RowsOf(segment);
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
  std::vector<std::shared_ptr<BeamGroup>> groups;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    Sequence& sequence = *batch.sequences[i];
    if (sequence.beams && std::ranges::count(groups, sequence.beams) == 0) {
      groups.push_back(sequence.beams);
    }
    std::optional<GenerationEnd> end;
    if (!failure.ok() && sequence.beams) {
      sequence.beams->failure = failure;
    } else if (!failure.ok()) {
      end = sequence.Stop(failure, FinishReason::kStop, now);
    } else {
      const int64_t numbers = RowsOf(batch.segments[i]) * model_.vocab_size();
      end = TakeRows(sequence, batch.segments[i], {row, static_cast<size_t>(numbers)}, now);
      row += numbers;
    }
    if (end) Retire(sequence, *end);
  }
  for (const auto& group : groups) StepBeams(group, now);
}

// `rows` are the logits that the segment asked for.
std::optional<GenerationEnd> Scheduler::TakeRows(Sequence& sequence, const Segment& segment,
                                                 std::span<const float> rows, Sequence::Time now) {
  if (segment.wants_all_logits) {
    const int64_t first = sequence.state->length() - std::ssize(segment.token_ids);
    const absl::Status scored = sequence.ScorePrompt(first, rows, model_.vocab_size());
    if (!scored.ok() && sequence.beams) {
      sequence.beams->failure = scored;
      return std::nullopt;
    }
    if (!scored.ok()) return sequence.Stop(scored, FinishReason::kStop, now);
  }
  if (!segment.wants_logits) {
    Count(sequence, 0);
    return std::nullopt;
  }
  const auto logits = rows.last(model_.vocab_size());
  if (sequence.beams) {
    sequence.beams->Put(sequence, logits);
    Count(sequence, 0);
    return std::nullopt;
  }
  if (!sequence.followers.empty()) Branch(sequence, logits, now);
  return Advance(sequence, logits, now);
}

// The prompt was read: its other choices go on with a state and from logits that are those of the
// leader. Where memory does not last for a state, the sequence waits until its tokens can be read
// again.
void Scheduler::Branch(Sequence& leader, std::span<const float> logits, Sequence::Time now) {
  for (std::unique_ptr<Sequence>& follower : std::exchange(leader.followers, {})) {
    Sequence& sequence = InsertSibling(std::move(follower));
    sequence.state = leader.state->Fork();
    sequence.prompt_tokens_counted = std::ssize(leader.generation().request().prompt);
    sequence.CopyStart(leader);
    if (const auto end = Advance(sequence, logits, now)) Retire(sequence, *end);
  }
}

// Behind those of the same request.
Sequence& Scheduler::InsertSibling(std::unique_ptr<Sequence> sibling) {
  const auto last = std::find_if(sequences_.rbegin(), sequences_.rend(),
                                 [&](const auto& other) { return other->id() == sibling->id(); });
  return **sequences_.insert(last.base(), std::move(sibling));
}

std::optional<GenerationEnd> Scheduler::Advance(Sequence& sequence, std::span<const float> logits,
                                                Sequence::Time now) {
  const int64_t generated = sequence.generated();
  std::optional<GenerationEnd> end = sequence.Advance(logits, now);
  Count(sequence, sequence.generated() - generated);
  return end;
}

void Scheduler::Count(Sequence& sequence, int64_t new_tokens) {
  const auto prompt = std::ssize(sequence.generation().request().prompt);
  const int64_t read = sequence.state ? std::min(prompt, sequence.state->length()) : 0;
  const Sequence::Timing timing = sequence.TakeTiming();
  MutexLock lock(mutex_);
  if (read > sequence.prompt_tokens_counted) {
    stats_.prompt_tokens += read - sequence.prompt_tokens_counted;
    sequence.prompt_tokens_counted = read;
  }
  stats_.generated_tokens += new_tokens;
  if (timing.queue_seconds) stats_.queue.Observe(*timing.queue_seconds);
  if (timing.time_to_first_token_seconds) {
    stats_.time_to_first_token.Observe(*timing.time_to_first_token_seconds);
  }
  if (timing.inter_token_seconds) stats_.inter_token.Observe(*timing.inter_token_seconds);
}

// Each token of a prompt counts once: as cached or, when it comes so far, as read.
void Scheduler::CountCached(Sequence& sequence) {
  const auto prompt = std::ssize(sequence.generation().request().prompt);
  const int64_t held = std::min(prompt, sequence.state->length());
  const int64_t cached = std::max<int64_t>(held - sequence.prompt_tokens_counted, 0);
  sequence.prompt_tokens_counted += cached;
  sequence.cached_tokens += cached;
  MutexLock lock(mutex_);
  stats_.cached_tokens += cached;
}

// Choices that have not begun end with the one that leads them, and beams with one another.
void Scheduler::Retire(Sequence& sequence, const GenerationEnd& end) {
  const std::shared_ptr<Generation> generation = sequence.Share();
  std::vector<OutputPiece> pieces = {{.choice = sequence.choice(), .end = end}};
  for (const auto& follower : sequence.followers) {
    pieces.push_back({.choice = follower->choice(), .end = end});
  }
  if (const std::shared_ptr<BeamGroup> group = sequence.beams) {
    pieces.clear();
    for (int i = 0; i < generation->request().sampling.n; ++i) {
      pieces.push_back({.choice = i, .end = end});
    }
    Bury(group->members);
  } else {
    std::erase_if(sequences_, [&](const auto& other) { return other.get() == &sequence; });
  }
  Settle(generation, std::move(pieces));
}

// Counts before the reader hears of the end, when the states are free already; a request counts as
// its last choice ends.
void Scheduler::Settle(const std::shared_ptr<Generation>& generation,
                       std::vector<OutputPiece> last_pieces) {
  const bool all_ended = generation->unended() == std::ssize(last_pieces);
  const GenerationEnd& end = *last_pieces.back().end;
  if (all_ended) {
    MutexLock lock(mutex_);
    ++stats_.finished[{generation->request().method, std::string(FinishLabel(end))}];
    if (end.status.ok() && end.reason == FinishReason::kCancelled) ++cut_off_;
  }
  Publish();
  for (OutputPiece& piece : last_pieces) generation->Append(std::move(piece));
  if (!all_ended) return;
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
