// How far the operations of this process are, by the moment; the database hears of it once a
// second.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "server/base/mutex.h"
#include "server/control/changes.h"
#include "server/core/operation.h"

namespace modeld {

// Thread-safe.
class LiveProgress {
 public:
  explicit LiveProgress(Changes& changes) : changes_(changes) {}

  // Keeps the newest progress of an operation that runs here and tells "operation:<name>".
  void Set(const std::string& operation, const OperationProgress& progress);
  void Remove(const std::string& operation);
  std::optional<OperationProgress> Get(const std::string& operation) const;
  // Puts the newest progress over that of the row while the operation runs here.
  void Overlay(Operation& operation) const;

 private:
  Changes& changes_;
  mutable Mutex mutex_;
  std::map<std::string, OperationProgress> progress_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
