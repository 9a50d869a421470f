#include "server/engine/weights/model_parts.h"

#include <algorithm>
#include <string>
#include <vector>

namespace modeld {
namespace {

void AddModule(const std::string& tensor, std::vector<std::string>& modules) {
  const std::string module = tensor.substr(0, tensor.rfind('.'));
  if (std::ranges::find(modules, module) == modules.end()) modules.push_back(module);
}

}  // namespace

ModelPart PartOf(const TensorShape& tensor) {
  if (tensor.layer >= 0) return ModelPart::kLayer;
  if (tensor.role.starts_with("lm_head.")) return ModelPart::kHead;
  return tensor.role.starts_with("model.norm.") ? ModelPart::kNorm : ModelPart::kEmbedding;
}

ModuleNames ModulesOf(const ArchitectureConfig& config) {
  ModuleNames modules;
  for (const TensorShape& tensor : TensorsOf(config)) {
    switch (PartOf(tensor)) {
      case ModelPart::kEmbedding:
        AddModule(tensor.name, modules.embedding);
        break;
      case ModelPart::kNorm:
        AddModule(tensor.name, modules.norm);
        break;
      case ModelPart::kHead:
        AddModule(tensor.name, modules.head);
        break;
      case ModelPart::kLayer:
        break;
    }
  }
  modules.tied_head = config.tie_word_embeddings && !config.makes_vectors;
  if (modules.tied_head && modules.head.empty()) modules.head = {"lm_head"};
  modules.layer = LayerModule(config);
  return modules;
}

}  // namespace modeld
