#include "server/engine/weights/architecture.h"

#include <array>

namespace modeld {

int64_t TensorShape::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

std::span<const Architecture> Architectures() {
  static const std::array kTable = {kLlama, kQwen2, kQwen3};
  return kTable;
}

const Architecture* FindArchitecture(std::string_view model_type) {
  for (const Architecture& architecture : Architectures()) {
    if (architecture.model_type == model_type) return &architecture;
  }
  return nullptr;
}

int64_t KvBytesPerToken(const ArchitectureConfig& config, int64_t element_bytes) {
  return 2 * config.num_layers * config.num_kv_heads * config.head_dim * element_bytes;
}

}  // namespace modeld
