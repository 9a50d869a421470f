#include "server/engine/models/registry.h"

namespace modeld {
namespace {

struct Entry {
  std::string_view model_type;
  ModelFactory make;
};

// Qwen2 and Qwen3 are Llama with biases and norms that their configurations switch on.
constexpr Entry kModels[] = {{"llama", MakeLlama}, {"qwen2", MakeLlama}, {"qwen3", MakeLlama}};

}  // namespace

ModelFactory FindModelFactory(std::string_view model_type) {
  for (const Entry& entry : kModels) {
    if (entry.model_type == model_type) return entry.make;
  }
  return nullptr;
}

}  // namespace modeld
