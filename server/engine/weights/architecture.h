// The table of architectures that the engine runs: what each reads from config.json and which
// tensors its weights have. Nothing here needs libtorch; models/decoder.h has the forward.
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
  std::string name;  // in the repository
  std::vector<int64_t> shape;
  int64_t layer = -1;  // -1: belongs to no layer (embedding, last norm, head)
  std::string role;    // in DecoderTensors()
  // Numbers that an element is when it is loaded: 1, or for bytes ("U8") 2 in a block of four-bit
  // numbers and 0 in their scales.
  int64_t numbers = 1;
  bool is_bytes = false;

  int64_t elements() const;  // as loaded
};

// Keys and values that a layer keeps of a token.
struct KvShape {
  int64_t heads;
  int64_t key_dim;
  int64_t value_dim;
};

// Whole parts of a role, "mlp_norm", and what the repository has in their place.
struct Rename {
  std::string_view role;
  std::string_view name;
};

// What a repository's names begin with in the place of "model." and before "lm_head".
struct NameRoot {
  std::string_view model;
  std::string_view head;
};
inline constexpr NameRoot kUsualRoots[] = {{"model.", ""}, {"", ""}};

struct Architecture {
  std::string_view model_type;
  // The class in "architectures" whose weights we know; a repository of another class is refused.
  std::string_view class_name;
  // Fills in what the family's config.json says. Errors stay in the reader.
  void (*read)(ConfigReader& reader, ArchitectureConfig& config);
  std::span<const Rename> renames;
  // The usual one first; the embedding's name tells which one a repository has.
  std::span<const NameRoot> roots = kUsualRoots;
  // Tensors with one of these in their name are not needed.
  std::span<const std::string_view> ignored = {};
  // A method of quantization_config that `read` understands.
  std::string_view quantization = "";
  // Classes with the same weights and others that are ignored.
  std::span<const std::string_view> other_classes = {};
};

// A repository with images or sound beside a text part, which alone is loaded.
struct Wrapper {
  std::string_view model_type;
  std::string_view class_name;
  std::string_view text_model_type;  // where text_config says nothing
  std::span<const NameRoot> roots;
  std::span<const std::string_view> ignored;  // parts of the names of other tensors
};
// Null when the engine has none of that name.
const Wrapper* FindWrapper(std::string_view model_type);

std::span<const Architecture> Architectures();
// Null when the engine has none of that name.
const Architecture* FindArchitecture(std::string_view model_type);

// Of the architecture, or of the wrapper where there is one.
std::span<const NameRoot> RootsOf(const ArchitectureConfig& config);

// All tensors of `config`, named as in a repository with `root`, one of its architecture's.
std::vector<TensorShape> TensorsOf(const ArchitectureConfig& config, const NameRoot& root);
// With the usual root.
std::vector<TensorShape> TensorsOf(const ArchitectureConfig& config);

// Of each layer, zeros where it keeps none; empty for a model that makes vectors.
std::vector<KvShape> KvShapes(const ArchitectureConfig& config);

// Bytes of keys and values that one token adds, all layers, elements of `element_bytes`.
int64_t KvBytesPerToken(const ArchitectureConfig& config, int64_t element_bytes);

// Bytes that layers other than attention keep of a sequence, whatever its length.
int64_t StateBytesPerSequence(const ArchitectureConfig& config);
// The same of each layer.
std::vector<int64_t> LayerStateBytes(const ArchitectureConfig& config);

// What the names of the first layer's tensors begin with, without its index: "model.layers.".
std::string LayerModule(const ArchitectureConfig& config);

// Bytes of one token's matrices that are alive at once in a layer beside the feed-forward network,
// in float32: the residual stream, the norm's copies, queries, keys and values with their turned
// copies. What a model that makes vectors needs for each token of a text, as it goes through the
// layers whole.
int64_t RowBytes(const ArchitectureConfig& config);

// The families, a file for each or for a few that are much alike.
extern const Architecture kBert;
extern const Architecture kCohere2;
extern const Architecture kDeepseekV2;
extern const Architecture kDeepseekV3;
extern const Architecture kExaone4;
extern const Architecture kGemma2;
extern const Architecture kGemma3Text;
extern const Architecture kGemma4Text;
extern const Architecture kGlm4;
extern const Architecture kGlm4Moe;
extern const Architecture kGpt2;
extern const Architecture kGptNeoX;
extern const Architecture kGptOss;
extern const Architecture kGranite;
extern const Architecture kGraniteMoeHybrid;
extern const Architecture kLfm2;
extern const Architecture kLlama;
extern const Architecture kMinistral3;
extern const Architecture kMistral;
extern const Architecture kMixtral;
extern const Architecture kModernBert;
extern const Architecture kMpnet;
extern const Architecture kNomicBert;
extern const Architecture kOlmo2;
extern const Architecture kOlmo3;
extern const Architecture kOlmoe;
extern const Architecture kPhi3;
extern const Architecture kQwen2;
extern const Architecture kQwen2Moe;
extern const Architecture kQwen3;
extern const Architecture kQwen35Text;
extern const Architecture kQwen3Moe;
extern const Architecture kQwen3Next;
extern const Architecture kQwen3VlText;
extern const Architecture kRoberta;
extern const Architecture kSmolLm3;
extern const Architecture kStarcoder2;
extern const Architecture kXlmRoberta;

}  // namespace modeld
