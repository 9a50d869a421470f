// The engine's load, from the request to a model that answers.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "modeld/engine/v1/engine.pb.h"
#include "server/base/clock.h"
#include "server/engine/batch/scheduler.h"
#include "server/engine/serving_model.h"

namespace modeld {

struct ServingOptions {
  Scheduler::Options scheduler;
  int threads = 1;
};

// Called on the loading thread with every change of phase and bytes.
using OnLoadMessage = std::function<void(const modeld::engine::v1::LoadResponse&)>;

// Reads tokenizer, template and weights, warms up. The errors of LoadModel in models/loader.h, and
// INVALID_FIELD for a request that says nothing to load.
absl::StatusOr<std::shared_ptr<ServingModel>> LoadServingModel(
    const modeld::engine::v1::LoadRequest& request, const ServingOptions& options, Clock& clock,
    const OnLoadMessage& on_message);

}  // namespace modeld
