// What the families of decoders share: keys of config.json and tensors.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "server/engine/weights/architecture.h"

namespace modeld {

// What a family takes for keys that its config.json leaves out.
struct DecoderDefaults {
  int64_t num_kv_heads = 0;  // 0: as many as there are heads
  int64_t head_dim = 0;      // 0: hidden_size / num_attention_heads
  int64_t max_context = 2048;
  int64_t vocab_size = 0;  // 0: must be there, as the others
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  double norm_eps = 1e-6;
  double theta = 10000;
  double partial_rotary_factor = 1;
  bool tie_word_embeddings = false;
  std::string_view activation = "silu";
};

inline constexpr Range<int64_t> kContextRange{1, 1 << 28};
inline constexpr Range<int64_t> kHeadsRange{1, 1 << 12};
inline constexpr Range<int64_t> kIntermediateRange{1, 1 << 20};
inline constexpr Range<double> kFactorRange{1e-6, 1e6};
inline constexpr Range<int64_t> kHeadDimRange{1, 1 << 12};
inline constexpr Range<int64_t> kConvTokensRange{2, 1 << 10};

// Sizes, norm, one rope for all layers, activation, tied embeddings; not the biases.
void ReadDecoder(ConfigReader& reader, const DecoderDefaults& defaults, ArchitectureConfig& config);

// Kinds of layers by "layer_types"; without that key every `full_every`th one sees everything and
// the others have the window (1: none has).
void ReadWindows(ConfigReader& reader, int64_t window, int64_t full_every,
                 ArchitectureConfig& config);

// Layers of a kind that "layer_types" calls `name`.
struct NamedMixer {
  Mixer mixer;
  std::string_view name;
};

// Which layers have `named`, by "layer_types"; without that key every `full_every`th has attention.
void ReadMixers(ConfigReader& reader, const NamedMixer& named, int64_t full_every,
                ArchitectureConfig& config);

// Layers with a window turn by another rope: rope_parameters by kind of layer, or rope_theta and
// rope_scaling for those without a window and `sliding_theta` for the others.
void ReadRopeForWindows(ConfigReader& reader, double full_theta, double sliding_theta,
                        ArchitectureConfig& config);

// Layers without a window are not turned.
void TurnWindowsOnly(ArchitectureConfig& config);

// Every layer has `window`.
void SetWindow(int64_t window, ArchitectureConfig& config);

// use_sliding_window, sliding_window and max_window_layers of the Qwen families.
void ReadQwenWindows(ConfigReader& reader, ArchitectureConfig& config);

// Number of experts by `key`, experts of a token by num_experts_per_tok; `defaults` for the two.
void ReadExperts(ConfigReader& reader, const char* key, const MoeConfig& defaults,
                 ArchitectureConfig& config);

// The mixtures of the Qwen families: which layers have one, sizes, whether weights are normalised;
// `defaults` for the two numbers of experts and the latter.
void ReadQwenExperts(ConfigReader& reader, const MoeConfig& defaults, ArchitectureConfig& config);

// The mixtures of DeepSeek and GLM 4.5: groups, shared experts, dense first layers; `defaults` for
// the two numbers of experts.
void ReadSharedExperts(ConfigReader& reader, const MoeConfig& defaults, ArchitectureConfig& config);

// Of these the ones that weigh experts by sigmoids.
void ReadSigmoidExperts(ConfigReader& reader, ArchitectureConfig& config);

// Granite: a decoder whose embeddings, attention, residuals and logits have factors.
void ReadGranite(ConfigReader& reader, ArchitectureConfig& config);

// The norms of a layer as Llama names them, and as Gemma 2 names its four.
inline constexpr Rename kLlamaNames[] = {{"attention_norm", "input_layernorm"},
                                         {"mlp_norm", "post_attention_layernorm"}};
inline constexpr Rename kSandwichNames[] = {{"attention_norm", "input_layernorm"},
                                            {"attention_after_norm", "post_attention_layernorm"},
                                            {"mlp_norm", "pre_feedforward_layernorm"},
                                            {"mlp_after_norm", "post_feedforward_layernorm"}};
inline constexpr Rename kSharedExpertsNames[] = {{"attention_norm", "input_layernorm"},
                                                 {"mlp_norm", "post_attention_layernorm"},
                                                 {"mlp.router", "mlp.gate"},
                                                 {"mlp.shared_expert", "mlp.shared_experts"}};
inline constexpr Rename kQwenMoeNames[] = {{"attention_norm", "input_layernorm"},
                                           {"mlp_norm", "post_attention_layernorm"},
                                           {"mlp.router", "mlp.gate"}};
inline constexpr Rename kAfterNames[] = {{"attention_after_norm", "post_attention_layernorm"},
                                         {"mlp_after_norm", "post_feedforward_layernorm"}};

}  // namespace modeld
