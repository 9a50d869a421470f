// The table of forwards, by model type; weights/architecture.h has the same types.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "server/base/thread_pool.h"
#include "server/engine/models/kv_pool.h"
#include "server/engine/models/model.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// What a model is built from.
struct ModelParts {
  ArchitectureConfig config;
  int64_t max_context;  // tokens, as loaded
  std::shared_ptr<KvPool> kv;
  std::unique_ptr<ThreadPool> threads;
};

using ModelFactory = std::unique_ptr<CausalLm> (*)(ModelParts parts, const TensorSource& source);

// Null when there is none of that type.
ModelFactory FindModelFactory(std::string_view model_type);

// The families, one file each.
std::unique_ptr<CausalLm> MakeLlama(ModelParts parts, const TensorSource& source);

}  // namespace modeld
