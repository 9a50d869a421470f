#include "server/engine/batch/request.h"

#include <iterator>
#include <utility>

namespace modeld {

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
    : request_(std::move(request)), on_output_(std::move(on_output)) {}

std::optional<OutputPiece> Generation::Take() {
  std::shared_ptr<Wakeup> wakeup;
  OutputPiece piece;
  {
    MutexLock lock(mutex_);
    if (!has_unread_) {
      reader_waits_ = true;
      return std::nullopt;
    }
    if (std::ssize(unread_.token_ids) >= request_.unread_tokens_max) wakeup = wakeup_;
    piece = std::exchange(unread_, OutputPiece());
    has_unread_ = false;
  }
  if (wakeup) wakeup->Ring();
  return piece;
}

void Generation::Cancel() {
  std::shared_ptr<Wakeup> wakeup;
  {
    MutexLock lock(mutex_);
    cancelled_ = true;
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
    unread_.text += piece.text;
    unread_.token_ids.insert(unread_.token_ids.end(), piece.token_ids.begin(),
                             piece.token_ids.end());
    unread_.logprobs.insert(unread_.logprobs.end(), std::make_move_iterator(piece.logprobs.begin()),
                            std::make_move_iterator(piece.logprobs.end()));
    unread_.end = std::move(piece.end);
    has_unread_ = true;
    if (!reader_waits_) return;
    reader_waits_ = false;
  }
  on_output_();
}

bool Generation::cancelled() const {
  MutexLock lock(mutex_);
  return cancelled_;
}

bool Generation::full() const {
  MutexLock lock(mutex_);
  return std::ssize(unread_.token_ids) >= request_.unread_tokens_max;
}

}  // namespace modeld
