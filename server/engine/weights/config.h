// config.json as the engine understands it: numbers that were checked, one spelling of everything.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace modeld {

// How positions turn queries and keys.
struct RopeConfig {
  enum class Kind { kDefault, kLinear, kLlama3 };

  Kind kind = Kind::kDefault;
  double theta = 10000;
  double factor = 1;                 // kLinear, kLlama3
  double low_frequency_factor = 1;   // kLlama3
  double high_frequency_factor = 4;  // kLlama3
  int64_t original_context = 8192;   // kLlama3; tokens
};

// Weights in eight bits, E4M3, with scales beside them.
struct Fp8Config {
  // The block of a matrix that one scale stands for; 0: the whole tensor or a row.
  int64_t block_rows = 0;
  int64_t block_columns = 0;
};

// A decoder with attention and a gated feed-forward network. Every number is within the limits that
// ReadArchitectureConfig checks, so products of two sizes and a layer count do not overflow.
struct ArchitectureConfig {
  std::string model_type;    // "llama"
  std::string architecture;  // first of "architectures", may be empty
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;  // divides num_heads
  int64_t head_dim = 0;      // even
  int64_t vocab_size = 0;
  int64_t max_context = 0;  // tokens
  double rms_norm_eps = 1e-6;
  RopeConfig rope;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool qk_norm = false;  // RMS norm of each head of queries and keys, before rope
  std::vector<int64_t> eos_token_ids;
  std::optional<Fp8Config> fp8;  // quantization_config says so
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
