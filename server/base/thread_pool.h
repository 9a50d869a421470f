// Splits one loop over a fixed set of threads: what kernels run on.
#pragma once

#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

#include "server/base/mutex.h"

namespace modeld {

// One ParallelFor at a time, from one thread (the engine's step thread). The calling thread takes
// part. The destructor joins.
class ThreadPool {
 public:
  // `threads` >= 1, the caller included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls body(begin, end) for pieces that cover [0, n) once, at most one piece a thread, each at
  // least `grain` long where n allows; returns when all are done. `body` must not throw.
  void ParallelFor(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

 private:
  void Work(int index);

  Mutex mutex_;
  CondVar started_;
  CondVar finished_;
  const std::function<void(int64_t, int64_t)>* body_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t n_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t pieces_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t round_ ABSL_GUARDED_BY(mutex_) = 0;  // counts ParallelFor calls
  int running_ ABSL_GUARDED_BY(mutex_) = 0;    // workers that have not finished this round
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<std::jthread> threads_;  // last, so that the threads end before what they use
};

}  // namespace modeld
