#include "server/base/thread_pool.h"

#include <algorithm>

namespace modeld {
namespace {

int64_t PieceBegin(int64_t n, int64_t pieces, int64_t index) { return n * index / pieces; }

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) {
    threads_.emplace_back([this, i] { Work(i); });
  }
}

ThreadPool::~ThreadPool() {
  MutexLock lock(mutex_);
  stopping_ = true;
  started_.NotifyAll();
}

void ThreadPool::Work(int index) {
  int64_t seen = 0;
  while (true) {
    const std::function<void(int64_t, int64_t)>* body = nullptr;
    int64_t n = 0;
    int64_t pieces = 0;
    {
      MutexLock lock(mutex_);
      while (!stopping_ && round_ == seen) started_.Wait(mutex_);
      if (stopping_) return;
      seen = round_;
      body = body_;
      n = n_;
      pieces = pieces_;
    }
    if (index < pieces) (*body)(PieceBegin(n, pieces, index), PieceBegin(n, pieces, index + 1));
    MutexLock lock(mutex_);
    if (--running_ == 0) finished_.NotifyOne();
  }
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& body) {
  const int64_t pieces =
      std::clamp<int64_t>(n / std::max<int64_t>(grain, 1), 1, static_cast<int64_t>(threads()));
  if (n <= 0) return;
  if (pieces == 1) {
    body(0, n);
    return;
  }
  {
    MutexLock lock(mutex_);
    body_ = &body;
    n_ = n;
    pieces_ = pieces;
    running_ = static_cast<int>(threads_.size());
    ++round_;
    started_.NotifyAll();
  }
  body(0, PieceBegin(n, pieces, 1));
  MutexLock lock(mutex_);
  while (running_ > 0) finished_.Wait(mutex_);
  body_ = nullptr;
}

}  // namespace modeld
