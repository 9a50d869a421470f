// config.json as the engine understands it: numbers that were checked, one spelling of everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/weights/attention_config.h"
#include "server/engine/weights/moe_config.h"
#include "server/engine/weights/recurrent_config.h"

namespace modeld {

// Weights in eight bits, E4M3, with scales beside them.
struct Fp8Config {
  // The block of a matrix that one scale stands for; 0: the whole tensor or a row.
  int64_t block_rows = 0;
  int64_t block_columns = 0;
};

enum class NormKind {
  kRms,         // x / rms in float32, rounded, then times the weight
  kRmsOnce,     // x / rms times the weight in float32, rounded once
  kRmsPlusOne,  // as kRmsOnce; the file has weight - 1
  kLayer,       // mean and variance, with a bias
  kLayerNoBias,
};

enum class Activation {
  kSilu,
  kGelu,
  kGeluTanh,
  kClampedSwish,  // of gate and up together: (up + 1) * gate * sigmoid(alpha * gate), both limited
};

// Where the norms of a layer lie.
enum class NormPlacement {
  kBefore,         // x + f(norm(x))
  kAfter,          // x + norm(f(x))
  kAfterSum,       // norm(x + f(x))
  kAround,         // x + norm(f(norm(x)))
  kParallel,       // x + attention(norm(x)) + mlp(norm(x)), one norm
  kParallelOfTwo,  // the same with a norm for each
};

// Kinds of distances that relative_buckets tells apart.
inline constexpr int64_t kRelativeBuckets = 32;

// What may differ from layer to layer.
struct LayerConfig {
  Mixer mixer = Mixer::kAttention;
  int64_t head_dim = 0;          // even
  int64_t num_kv_heads = 0;      // divides num_heads
  int64_t kv_layer = -1;         // the layer before, whose keys and values it sees, or -1: its own
  bool keys_are_values = false;  // before norm and rope
  // Tokens that a token sees, itself included; 0: itself and all before it. Where attention goes
  // both ways: those at a smaller distance than this; 0: all.
  int64_t window = 0;
  int64_t rope = 0;            // index into ropes, -1: positions do not turn this layer
  bool moe = false;            // a mixture of experts in the place of the feed-forward network
  bool wide_mlp = false;       // a feed-forward network of twice the size
  bool attention_norm = true;  // false: none before attention, the embedding has had one
};

// A model of layers with attention and a feed-forward network. Every number is within the limits
// that ReadArchitectureConfig checks, so products of two sizes and a layer count do not overflow.
struct ArchitectureConfig {
  std::string model_type;    // "llama"; of the text part where there are others
  std::string wrapper;       // the repository's, "gemma3", where it has a text part; else empty
  std::string architecture;  // first of "architectures", may be empty
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // of most layers
  int64_t head_dim = 0;      // of most layers
  int64_t vocab_size = 0;
  int64_t max_context = 0;    // tokens
  int64_t unused_layers = 0;  // at the end of the file: they predict further tokens
  std::vector<int64_t> eos_token_ids;
  std::optional<Fp8Config> fp8;  // quantization_config says so

  std::vector<LayerConfig> layers;  // num_layers
  std::vector<RopeConfig> ropes;    // empty: positions are learned
  NormKind norm = NormKind::kRms;
  NormPlacement norm_placement = NormPlacement::kBefore;
  double norm_eps = 1e-6;

  // Attention.
  QkvLayout qkv_layout = QkvLayout::kSeparate;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  LatentConfig latent;
  RecurrentConfig recurrent;       // of the layers with another mixer than attention
  QkNorm qk_norm = QkNorm::kNone;  // before rope
  bool value_norm = false;         // of each head, without a weight
  bool attention_gate = false;     // results are weighed by sigmoids, which come with the queries
  bool rope_interleaved = false;   // pairs are neighbours, not halves
  bool exact_rope = false;         // cosines and sines stay float32
  double attention_scale = 0;      // of products of queries and keys
  double attention_softcap = 0;    // products s become softcap * tanh(s / softcap); 0: they do not
  bool attention_sinks = false;    // a learned logit of each head that takes weight from the others
  // Queries at position p are scaled by 1 + beta * log(1 + floor(p / context)); beta 0: they are
  // not.
  double query_scale_beta = 0;
  int64_t query_scale_context = 0;

  // Feed-forward network.
  Activation activation = Activation::kSilu;
  double swish_alpha = 1.702;  // kClampedSwish
  double swish_limit = 7;      // kClampedSwish
  bool gated_mlp = true;
  bool fused_gate_up = false;  // gate and up are one matrix
  bool mlp_bias = false;
  MoeConfig moe;
  bool experts_beside_mlp = false;  // every layer has both; each with a norm of its own after it

  // Embedding and head.
  bool tie_word_embeddings = false;
  bool head_bias = false;
  bool position_embedding = false;  // learned, added to the embedding
  bool transposed_linear = false;   // matrices of the layers are stored as [in, out]
  double embedding_multiplier = 1;
  double residual_multiplier = 1;  // of what a layer adds
  bool layer_scalar = false;       // a layer's result is times a learned number
  int64_t layer_input_size = 0;    // of the small vector that each layer gets of a token; 0: none
  int64_t layer_input_vocab = 0;   // rows of their embedding
  double logit_multiplier = 1;
  double logit_softcap = 0;  // 0: none

  // What is wanted is the last layer's output, of which texts get their vectors: no head, no text
  // is generated. Decoders can be used so too, see UseForVectors().
  bool makes_vectors = false;
  bool both_ways = false;       // tokens see those after them too; with makes_vectors only
  bool embedding_norm = false;  // after the embedding
  bool final_norm = true;       // after the last layer
  int64_t token_types = 0;      // rows of an embedding whose first is added to every token
  int64_t position_offset = 0;  // the first token's row of position_embedding
  int64_t pad_token_id = -1;    // takes no position, but the row before position_offset; -1: none
  // Rows of learned logits for the distance of two tokens, kRelativeBuckets of them used; 0: none.
  int64_t relative_buckets = 0;
};

// What is to be known of a config.json before its architecture is.
struct ConfigHeader {
  std::string model_type;
  std::string architecture;         // first of "architectures", may be empty
  bool has_remote_code = false;     // it has auto_map
  std::string remote_code_file;     // the Python file that auto_map names, may be empty
  std::string quantization_method;  // of quantization_config, "" without one
};

// INVALID_REPOSITORY when the text is no JSON object with a model_type.
absl::StatusOr<ConfigHeader> ReadConfigHeader(std::string_view config_json);

// INVALID_REPOSITORY naming key and value when a number is impossible, UNSUPPORTED_ARCHITECTURE
// when the model type or an option of it is none of ours, UNSUPPORTED_WEIGHTS for quantized
// weights.
absl::StatusOr<ArchitectureConfig> ReadArchitectureConfig(std::string_view config_json);

// Sets makes_vectors. UNSUPPORTED_ARCHITECTURE when a part of the model needs what was kept of
// earlier steps.
absl::Status UseForVectors(ArchitectureConfig& config);

}  // namespace modeld
