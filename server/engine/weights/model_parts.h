// A model's parts, which may lie on devices of their own, and the modules that they are in.
#pragma once

#include "server/core/device_map.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/config.h"

namespace modeld {

enum class ModelPart { kEmbedding, kLayer, kNorm, kHead };
ModelPart PartOf(const TensorShape& tensor);

// As the architecture's class names them, which is what a map by modules goes by.
ModuleNames ModulesOf(const ArchitectureConfig& config);

}  // namespace modeld
