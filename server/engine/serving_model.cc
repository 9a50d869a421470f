#include "server/engine/serving_model.h"

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {

SchedulerStats ServingModel::Stats() const {
  return scheduler ? scheduler->Stats() : embeddings->Stats();
}

int64_t ServingModel::Drain(std::chrono::milliseconds timeout) const {
  return scheduler ? scheduler->Drain(timeout) : embeddings->Drain(timeout);
}

absl::Status ServingModel::CheckGenerates(std::string_view method) const {
  if (scheduler) return absl::OkStatus();
  return Error(Reason::kMethodNotSupported,
               absl::StrCat("model \"", name, "\" makes vectors of texts: it answers Embed, not ",
                            std::string(method)));
}

absl::Status ServingModel::CheckEmbeds() const {
  if (embeddings) return absl::OkStatus();
  return Error(
      Reason::kMethodNotSupported,
      absl::StrCat("model \"", name, "\" generates text: it answers Generate and Chat, not Embed"));
}

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
