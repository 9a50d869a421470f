#include "server/control/live_progress.h"

namespace modeld {

void LiveProgress::Set(const std::string& operation, const OperationProgress& progress) {
  {
    MutexLock lock(mutex_);
    progress_[operation] = progress;
  }
  changes_.Publish("operation:" + operation);
}

void LiveProgress::Remove(const std::string& operation) {
  MutexLock lock(mutex_);
  progress_.erase(operation);
}

std::optional<OperationProgress> LiveProgress::Get(const std::string& operation) const {
  MutexLock lock(mutex_);
  const auto found = progress_.find(operation);
  if (found == progress_.end()) return std::nullopt;
  return found->second;
}

void LiveProgress::Overlay(Operation& operation) const {
  if (operation.state != OperationState::kRunning) return;
  if (auto newest = Get(operation.name)) operation.progress = *std::move(newest);
}

}  // namespace modeld
