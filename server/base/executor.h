// A few threads that run closures: where blocking work goes that must not sit in a gRPC callback.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "server/base/queue.h"

namespace modeld {

// Runs closures on `threads` threads, in the order they came. Thread-safe. The destructor runs what
// was accepted and then joins.
class Executor {
 public:
  struct Options {
    int threads = 4;
    int waiting_max = 10'000;  // closures not started; Run() refuses more
  };

  explicit Executor(const Options& options);
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  // False when waiting_max closures wait already; `work` is then never run.
  bool Run(std::function<void()> work);

 private:
  BoundedQueue<std::function<void()>> waiting_;
  std::vector<std::jthread> threads_;
};

}  // namespace modeld
