#include "server/engine/batch/request.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

namespace modeld {
namespace {

// With 20 alternatives each of so many positions a message stays far below the 64 MiB of a hop.
constexpr ptrdiff_t kPiecePositionsMax = 1024;

template <typename T>
void MoveToEnd(std::vector<T>& from, std::vector<T>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

template <typename T>
std::vector<T> TakeFront(std::vector<T>& from, ptrdiff_t count) {
  const auto end = from.begin() + std::min(count, std::ssize(from));
  std::vector<T> front(std::make_move_iterator(from.begin()), std::make_move_iterator(end));
  from.erase(from.begin(), end);
  return front;
}

// All of it, or as many positions as a message may have. Text and end stay for the last part.
OutputPiece TakeSome(OutputPiece& unread) {
  OutputPiece rest{.choice = unread.choice};
  if (std::ssize(unread.logprobs) <= kPiecePositionsMax &&
      std::ssize(unread.prompt_logprobs) <= kPiecePositionsMax) {
    return std::exchange(unread, std::move(rest));
  }
  OutputPiece piece{.choice = unread.choice};
  piece.prompt_logprobs = TakeFront(unread.prompt_logprobs, kPiecePositionsMax);
  piece.logprobs = TakeFront(unread.logprobs, kPiecePositionsMax);
  piece.token_ids = TakeFront(unread.token_ids, std::ssize(piece.logprobs));
  return piece;
}

bool IsEmpty(const OutputPiece& piece) {
  return piece.text.empty() && piece.token_ids.empty() && piece.prompt_logprobs.empty() &&
         !piece.end;
}

}  // namespace

void SetParts(AnswerPiece parts, OutputPiece& piece) {
  piece.text = std::move(parts.text);
  piece.reasoning = std::move(parts.reasoning);
  piece.tool_calls = std::move(parts.tool_calls);
}

void Wakeup::Ring() {
  MutexLock lock(mutex_);
  ringing_ = true;
  rang_.NotifyAll();
}

void Wakeup::Await(std::optional<std::chrono::steady_clock::time_point> deadline) {
  MutexLock lock(mutex_);
  while (!ringing_) {
    if (!deadline) {
      rang_.Wait(mutex_);
    } else if (!rang_.WaitUntil(mutex_, *deadline)) {
      break;
    }
  }
  ringing_ = false;
}

Generation::Generation(GenerationRequest request, std::function<void()> on_output)
    : request_(std::move(request)),
      holds_back_(request_.sampling.ranks_choices()),
      on_output_(std::move(on_output)),
      choices_(request_.sampling.best_of),
      unended_(request_.sampling.best_of),
      untaken_ends_(request_.sampling.best_of) {
  for (size_t i = 0; i < choices_.size(); ++i) {
    choices_[i].unread = {.choice = static_cast<int>(i), .text = request_.echo_text.value_or("")};
    choices_[i].has_unread = !choices_[i].unread.text.empty();
  }
}

std::optional<OutputPiece> Generation::Take() {
  std::shared_ptr<Wakeup> wakeup;
  OutputPiece piece;
  {
    MutexLock lock(mutex_);
    size_t i = 0;
    while (i < choices_.size() && !choices_[(next_choice_ + i) % choices_.size()].has_unread) ++i;
    if (i == choices_.size() || (holds_back_ && unended_ > 0)) {
      reader_waits_ = true;
      return std::nullopt;
    }
    Choice& choice = choices_[(next_choice_ + i) % choices_.size()];
    next_choice_ = (next_choice_ + i + 1) % choices_.size();
    if (Full(choice.unread)) wakeup = wakeup_;
    piece = TakeSome(choice.unread);
    choice.has_unread = !IsEmpty(choice.unread);
    if (piece.end && --untaken_ends_ == 0) {
      piece.last = true;
      piece.end->usage = usage_;
    }
  }
  if (wakeup) wakeup->Ring();
  return piece;
}

void Generation::Cancel() {
  std::shared_ptr<Wakeup> wakeup;
  {
    MutexLock lock(mutex_);
    if (!stopped_) {
      stopped_ = {absl::CancelledError("the request was cancelled"), FinishReason::kCancelled};
    }
    wakeup = wakeup_;
  }
  if (wakeup) wakeup->Ring();
}

void Generation::Attach(std::shared_ptr<Wakeup> wakeup) {
  MutexLock lock(mutex_);
  wakeup_ = std::move(wakeup);
}

void Generation::Append(OutputPiece piece) {
  {
    MutexLock lock(mutex_);
    Choice& choice = choices_[piece.choice];
    choice.unread.text += piece.text;
    choice.unread.reasoning += piece.reasoning;
    AppendToolCalls(std::move(piece.tool_calls), choice.unread.tool_calls);
    MoveToEnd(piece.token_ids, choice.unread.token_ids);
    MoveToEnd(piece.logprobs, choice.unread.logprobs);
    MoveToEnd(piece.prompt_logprobs, choice.unread.prompt_logprobs);
    choice.has_unread = true;
    if (piece.end) {
      choice.unread.end = std::move(piece.end);
      NoteEnd(*choice.unread.end);
    }
    if (!reader_waits_ || (holds_back_ && unended_ > 0)) return;
    reader_waits_ = false;
  }
  on_output_();
}

void Generation::NoteEnd(const GenerationEnd& end) {
  usage_.prompt_tokens = end.usage.prompt_tokens;
  usage_.generated_tokens += end.usage.generated_tokens;
  usage_.reasoning_tokens += end.usage.reasoning_tokens;
  usage_.cached_tokens = std::max(usage_.cached_tokens, end.usage.cached_tokens);
  usage_.queue_seconds = end.usage.queue_seconds;
  // The choices share their first step but where one has no token.
  usage_.time_to_first_token_seconds =
      std::max(usage_.time_to_first_token_seconds, end.usage.time_to_first_token_seconds);
  usage_.total_seconds = std::max(usage_.total_seconds, end.usage.total_seconds);
  if (!end.status.ok() && !stopped_) stopped_ = {end.status, end.reason};
  if (--unended_ == 0 && holds_back_) KeepBest();
}

void Generation::KeepBest() {
  std::vector<size_t> order(choices_.size());
  std::iota(order.begin(), order.end(), 0);
  // An error goes before everything.
  std::ranges::stable_sort(order, [this](size_t a, size_t b) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const GenerationEnd& first = *choices_[a].unread.end;
    const GenerationEnd& second = *choices_[b].unread.end;
    if (first.status.ok() != second.status.ok()) return !first.status.ok();
    return first.score.value_or(0) > second.score.value_or(0);
  });
  std::vector<PositionLogprobs> prompt_logprobs =
      std::exchange(choices_.front().unread.prompt_logprobs, {});
  std::vector<Choice> best;
  for (int i = 0; i < request_.sampling.n; ++i) {
    best.push_back(std::move(choices_[order[i]]));
    best.back().unread.choice = i;
  }
  best.front().unread.prompt_logprobs = std::move(prompt_logprobs);
  choices_ = std::move(best);
  untaken_ends_ = request_.sampling.n;
}

std::optional<Generation::Stopped> Generation::stopped() const {
  MutexLock lock(mutex_);
  return stopped_;
}

int Generation::unended() const {
  MutexLock lock(mutex_);
  return unended_;
}

bool Generation::full(int choice) const {
  MutexLock lock(mutex_);
  return Full(choices_[choice].unread);
}

// What is held back is bounded by max_tokens alone.
bool Generation::Full(const OutputPiece& unread) const {
  return !holds_back_ && std::ssize(unread.token_ids) + std::ssize(unread.prompt_logprobs) >=
                             request_.unread_tokens_max;
}

}  // namespace modeld
