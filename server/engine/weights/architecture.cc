#include "server/engine/weights/architecture.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "server/base/status.h"
#include "server/engine/weights/decoder_tensors.h"

namespace modeld {
namespace {

// Where `part`, with dots or ends around it, is in `name`.
size_t FindPart(std::string_view name, std::string_view part) {
  for (size_t at = name.find(part); at != std::string_view::npos; at = name.find(part, at + 1)) {
    const size_t end = at + part.size();
    const bool begins = at == 0 || name[at - 1] == '.';
    const bool ends = end == name.size() || name[end] == '.';
    if (begins && ends) return at;
  }
  return std::string_view::npos;
}

std::string NameOf(const Architecture& architecture, const NameRoot& root, std::string_view role) {
  constexpr std::string_view kModel = "model.";
  std::string name(role);
  for (const Rename& rename : architecture.renames) {
    const size_t at = FindPart(name, rename.role);
    if (at != std::string::npos) name.replace(at, rename.role.size(), rename.name);
  }
  if (name.starts_with(kModel)) return name.replace(0, kModel.size(), root.model);
  return std::string(root.head) + name;
}

}  // namespace

int64_t TensorShape::elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count * numbers;
}

std::span<const Architecture> Architectures() {
  static const std::array kTable = {
      kBert,       kCohere2,    kDeepseekV2, kDeepseekV3,  kExaone4,
      kGemma2,     kGemma3Text, kGemma4Text, kGlm4,        kGlm4Moe,
      kGpt2,       kGptNeoX,    kGptOss,     kGranite,     kGraniteMoeHybrid,
      kLfm2,       kLlama,      kMinistral3, kMistral,     kMixtral,
      kModernBert, kMpnet,      kNomicBert,  kOlmo2,       kOlmo3,
      kOlmoe,      kPhi3,       kQwen2,      kQwen2Moe,    kQwen3,
      kQwen35Text, kQwen3Moe,   kQwen3Next,  kQwen3VlText, kRoberta,
      kSmolLm3,    kStarcoder2, kXlmRoberta};
  return kTable;
}

const Architecture* FindArchitecture(std::string_view model_type) {
  for (const Architecture& architecture : Architectures()) {
    if (architecture.model_type == model_type) return &architecture;
  }
  return nullptr;
}

std::vector<TensorShape> TensorsOf(const ArchitectureConfig& config, const NameRoot& root) {
  const Architecture* architecture = FindArchitecture(config.model_type);
  MODELD_CHECK(architecture != nullptr, "a configuration of no architecture");
  std::vector<TensorShape> tensors = DecoderTensors(config);
  for (TensorShape& tensor : tensors) tensor.name = NameOf(*architecture, root, tensor.role);
  return tensors;
}

std::span<const NameRoot> RootsOf(const ArchitectureConfig& config) {
  if (const Wrapper* wrapper = FindWrapper(config.wrapper)) return wrapper->roots;
  const Architecture* architecture = FindArchitecture(config.model_type);
  MODELD_CHECK(architecture != nullptr, "a configuration of no architecture");
  return architecture->roots;
}

std::vector<TensorShape> TensorsOf(const ArchitectureConfig& config) {
  return TensorsOf(config, RootsOf(config).front());
}

std::vector<KvShape> KvShapes(const ArchitectureConfig& config) {
  if (config.makes_vectors) return {};
  const LatentConfig& latent = config.latent;
  std::vector<KvShape> shapes;
  for (const LayerConfig& layer : config.layers) {
    if (layer.mixer != Mixer::kAttention || layer.kv_layer >= 0) {
      shapes.push_back({});
    } else if (latent.kv_rank > 0) {
      shapes.push_back({1, latent.kv_rank + latent.rope_dim, latent.kv_rank});
    } else {
      shapes.push_back({layer.num_kv_heads, layer.head_dim, layer.head_dim});
    }
  }
  return shapes;
}

int64_t KvBytesPerToken(const ArchitectureConfig& config, int64_t element_bytes) {
  int64_t elements = 0;
  for (const KvShape& layer : KvShapes(config)) {
    elements += layer.heads * (layer.key_dim + layer.value_dim);
  }
  return elements * element_bytes;
}

int64_t StateBytesPerSequence(const ArchitectureConfig& config) {
  const std::vector<int64_t> layers = LayerStateBytes(config);
  return std::accumulate(layers.begin(), layers.end(), int64_t{0});
}

std::vector<int64_t> LayerStateBytes(const ArchitectureConfig& config) {
  std::vector<int64_t> bytes;
  for (const LayerConfig& layer : config.layers) {
    const bool has_state = layer.mixer != Mixer::kAttention;
    bytes.push_back(has_state ? config.recurrent.state_elements() * int64_t{sizeof(float)} : 0);
  }
  return bytes;
}

std::string LayerModule(const ArchitectureConfig& config) {
  const Architecture* architecture = FindArchitecture(config.model_type);
  MODELD_CHECK(architecture != nullptr, "a configuration of no architecture");
  const std::string module = NameOf(*architecture, RootsOf(config).front(), "model.layers.0");
  return module.substr(0, module.size() - 1);
}

int64_t RowBytes(const ArchitectureConfig& config) {
  int64_t heads = 0;
  for (const LayerConfig& layer : config.layers) {
    heads = std::max(heads, (config.num_heads + 2 * layer.num_kv_heads) * layer.head_dim);
  }
  return (6 * config.hidden_size + 3 * heads) * int64_t{sizeof(float)};
}

}  // namespace modeld
