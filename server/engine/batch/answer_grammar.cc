#include "server/engine/batch/answer_grammar.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "server/base/mutex.h"
#include "server/base/status.h"

namespace modeld {

// Passed between the step thread and the one that computes the mask; whose it is says
// `phase`.
struct AnswerGrammar::Work {
  enum class Phase {
    kIdle,     // the step thread's
    kWanted,   // of the first that takes it
    kRunning,  // of the one that took it
  };

  Work(std::shared_ptr<const Grammar> of, std::vector<int64_t> ends)
      : grammar(std::move(of)), end_token_ids(std::move(ends)) {
    const auto last_end = std::ranges::max_element(end_token_ids);
    const int64_t ends_words = last_end == end_token_ids.end() ? 0 : *last_end / 32 + 1;
    mask.resize(std::max(grammar->mask_words(), ends_words));
  }

  // Computes the mask if nobody else does.
  void Run() ABSL_LOCKS_EXCLUDED(mutex) {
    {
      MutexLock lock(mutex);
      if (phase != Phase::kWanted) return;
      phase = Phase::kRunning;
    }
    status = Compute();
    MutexLock lock(mutex);
    phase = Phase::kIdle;
    idle.NotifyAll();
  }

  absl::Status Compute() {
    if (!state) {
      ASSIGN_OR_RETURN(state, grammar->Start());
    }
    ASSIGN_OR_RETURN(can_stop, state->Mask(mask));
    can_go_on = std::ranges::any_of(mask, [](uint32_t word) { return word != 0; });
    if (!can_stop) return absl::OkStatus();
    for (const int64_t id : end_token_ids) mask[id / 32] |= 1U << (id % 32);
    return absl::OkStatus();
  }

  void Await() ABSL_LOCKS_EXCLUDED(mutex) {
    Run();
    MutexLock lock(mutex);
    while (phase != Phase::kIdle) idle.Wait(mutex);
  }

  const std::shared_ptr<const Grammar> grammar;
  const std::vector<int64_t> end_token_ids;
  std::unique_ptr<GrammarState> state;
  std::vector<uint32_t> mask;
  bool can_stop = false;
  bool can_go_on = false;
  absl::Status status;
  Mutex mutex;
  CondVar idle;
  Phase phase ABSL_GUARDED_BY(mutex) = Phase::kIdle;
};

AnswerGrammar::AnswerGrammar(AnswerStructure structure, std::vector<int64_t> end_token_ids)
    : structure_(std::move(structure)),
      work_(std::make_shared<Work>(structure_.grammar, std::move(end_token_ids))),
      begun_(!structure_.begins_after) {
  ComputeMask();
}

AnswerGrammar::~AnswerGrammar() = default;

void AnswerGrammar::ComputeMask() {
  {
    MutexLock lock(work_->mutex);
    work_->phase = Work::Phase::kWanted;
  }
  // When the queue is full, Next() computes it.
  structure_.mask_threads->Run([work = work_] { work->Run(); });
}

absl::StatusOr<std::optional<TokenRules>> AnswerGrammar::Next() {
  if (!begun_) return TokenRules{.may_end = false};
  work_->Await();
  RETURN_IF_ERROR(work_->status);
  if (!work_->can_go_on && work_->can_stop) return std::nullopt;
  return TokenRules{.mask = work_->mask, .may_end = work_->can_stop};
}

absl::StatusOr<bool> AnswerGrammar::Accept(std::span<const int64_t> answer) {
  if (!begun_) {
    begun_ = structure_.begins_after(answer);
    return false;
  }
  ASSIGN_OR_RETURN(const bool finished, work_->state->Accept(answer.back()));
  if (!finished) ComputeMask();
  return finished;
}

}  // namespace modeld
