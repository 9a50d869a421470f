// The table of architectures that the engine runs: what each reads from config.json and which
// tensors its weights have. Nothing here needs libtorch; models/factory.h has the forwards.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/weights/config.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {

// A tensor that a model of some configuration must have.
struct TensorShape {
  std::string name;
  std::vector<int64_t> shape;
  int64_t layer = -1;  // -1: belongs to no layer (embedding, last norm, head)

  int64_t elements() const;
};

struct Architecture {
  std::string_view model_type;
  // The class in "architectures" whose weights we know; a repository of another class is refused.
  std::string_view class_name;
  // Fills in what the family's config.json says. Errors stay in the reader.
  void (*read)(ConfigReader& reader, ArchitectureConfig& config);
  std::vector<TensorShape> (*tensors)(const ArchitectureConfig& config);
};

std::span<const Architecture> Architectures();
// Null when the engine has none of that name.
const Architecture* FindArchitecture(std::string_view model_type);

// Bytes of keys and values that one token adds, all layers, elements of `element_bytes`.
int64_t KvBytesPerToken(const ArchitectureConfig& config, int64_t element_bytes);

// The families, one file each.
extern const Architecture kLlama;
extern const Architecture kQwen2;
extern const Architecture kQwen3;

}  // namespace modeld
