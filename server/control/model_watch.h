// What changed about models since one looked last.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/control/registry.h"

namespace modeld {

// The numbers are those of the proto.
enum class ModelChangeType { kUnspecified = 0, kAdded = 1, kModified = 2, kDeleted = 3 };

struct ModelChange {
  ModelChangeType type = ModelChangeType::kUnspecified;
  ModelView view;  // after the change; of a deleted one as it was last
};

// One watcher; one thread at a time. Poll when topic() changed (changes.h).
class ModelWatch {
 public:
  // `model_name` empty: all models. A name without a row is fine: it may come.
  ModelWatch(Registry& registry, std::string model_name)
      : registry_(registry), model_name_(std::move(model_name)) {}

  // "model:<model_name>" or "model:".
  std::string topic() const { return "model:" + model_name_; }

  // First everything that is there as kAdded, then what differs from the call before.
  absl::StatusOr<std::vector<ModelChange>> Poll();

 private:
  absl::StatusOr<std::vector<ModelView>> Look();

  Registry& registry_;
  const std::string model_name_;
  std::map<std::string, ModelView> seen_;  // by model_name
};

}  // namespace modeld
