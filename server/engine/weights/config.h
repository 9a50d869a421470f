// config.json as the engine understands it: numbers that were checked, one spelling of everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/weights/recurrent_config.h"

namespace modeld {

// How positions turn queries and keys.
struct RopeConfig {
  enum class Kind { kDefault, kLinear, kLlama3, kYarn, kLongRope };

  Kind kind = Kind::kDefault;
  double theta = 10000;
  int64_t rotary_dim = 0;             // elements of a head that are turned: the first ones; even
  double factor = 1;                  // all but kDefault
  double low_frequency_factor = 1;    // kLlama3
  double high_frequency_factor = 4;   // kLlama3
  double beta_fast = 32;              // kYarn
  double beta_slow = 1;               // kYarn
  bool truncate = true;               // kYarn: whole bounds of the ramp
  double attention_factor = 1;        // of cosines and sines
  double score_factor = 1;            // kYarn; of products of queries and keys, for LatentConfig
  int64_t original_context = 8192;    // kLlama3, kYarn, kLongRope; tokens
  std::vector<double> short_factors;  // kLongRope; of sequences up to original_context
  std::vector<double> long_factors;   // kLongRope; of longer ones
};

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
  kAround,         // x + norm(f(norm(x)))
  kParallel,       // x + attention(norm(x)) + mlp(norm(x)), one norm
  kParallelOfTwo,  // the same with a norm for each
};

enum class QkNorm {
  kNone,
  kHead,   // of each head
  kWhole,  // of the heads of a token together
};

// How the projections to queries, keys and values are stored.
enum class QkvLayout {
  kSeparate,
  kFused,        // one matrix: all query heads, all key heads, all value heads
  kFusedByHead,  // one matrix: query, key and value of the first head, of the second, ...
};

// Keys and values of all heads are made from one small vector of each token, which alone is cached
// (DeepSeek's multi-head latent attention).
struct LatentConfig {
  int64_t query_rank = 0;  // of queries, which are made in two steps; 0: in one
  int64_t kv_rank = 0;     // of keys and values; 0: ordinary attention
  int64_t nope_dim = 0;    // elements of a head that positions do not turn
  int64_t rope_dim = 0;    // and those that they do; the keys of all heads share them
  int64_t value_dim = 0;
};

// How a mixture of experts weighs them.
struct MoeConfig {
  enum class Scoring { kSoftmax, kSigmoid, kSoftmaxOfTop };

  int64_t num_experts = 0;  // 0: no layer is a mixture
  int64_t experts_per_token = 0;
  int64_t intermediate_size = 0;         // of one expert
  int64_t shared_intermediate_size = 0;  // of the expert that sees every token, 0: none
  bool shared_gate = false;              // the shared expert's output is weighed by a sigmoid
  Scoring scoring = Scoring::kSoftmax;
  bool normalize = false;     // chosen weights sum to 1
  bool choice_bias = false;   // a bias for choosing only, "e_score_correction_bias"
  bool exact_router = false;  // float32, whatever the dtype of the model
  int64_t groups = 1;         // experts are chosen from the best groups only
  int64_t groups_per_token = 1;
  bool group_score_of_two = true;  // a group counts by its two best experts, else by the best
  double group_hidden_score = 0;   // of experts in other groups
  double scale = 1;                // of the chosen weights
  // All experts in one tensor [experts, in, out], gate and up in turns, with biases; the router has
  // one too.
  bool fused = false;
  bool mxfp4 = false;  // fused ones are stored in four bits, with a scale for each 32
};

// What may differ from layer to layer.
struct LayerConfig {
  Mixer mixer = Mixer::kAttention;
  int64_t window = 0;  // tokens that a token sees, itself included; 0: itself and all before it
  int64_t rope = 0;    // index into ropes, -1: positions do not turn this layer
  bool moe = false;    // a mixture of experts in the place of the feed-forward network
};

// A decoder with attention and a feed-forward network. Every number is within the limits that
// ReadArchitectureConfig checks, so products of two sizes and a layer count do not overflow.
struct ArchitectureConfig {
  std::string model_type;    // "llama"; of the text part where there are others
  std::string wrapper;       // the repository's, "gemma3", where it has a text part; else empty
  std::string architecture;  // first of "architectures", may be empty
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // even
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

  // Embedding and head.
  bool tie_word_embeddings = false;
  bool head_bias = false;
  bool position_embedding = false;  // learned, added to the embedding
  bool transposed_linear = false;   // matrices of the layers are stored as [in, out]
  double embedding_multiplier = 1;
  double residual_multiplier = 1;  // of what a layer adds
  double logit_multiplier = 1;
  double logit_softcap = 0;  // 0: none
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

}  // namespace modeld
