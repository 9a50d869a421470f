#include "server/engine/serving_model.h"

#include "server/core/reason.h"

namespace modeld {

absl::StatusOr<std::shared_ptr<ServingModel>> ModelSlot::Get() const {
  MutexLock lock(mutex_);
  if (!model_) return Error(Reason::kModelNotReady, "no model is loaded in this engine");
  return model_;
}

void ModelSlot::Set(std::shared_ptr<ServingModel> model) {
  MutexLock lock(mutex_);
  model_ = std::move(model);
}

}  // namespace modeld
