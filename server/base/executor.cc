#include "server/base/executor.h"

#include <utility>

namespace modeld {

Executor::Executor(const Options& options) : waiting_(options.waiting_max) {
  for (int i = 0; i < options.threads; ++i) {
    threads_.emplace_back([this] {
      while (auto work = waiting_.Pop()) (*work)();
    });
  }
}

Executor::~Executor() { waiting_.Close(); }

bool Executor::Run(std::function<void()> work) { return waiting_.TryPush(work); }

}  // namespace modeld
