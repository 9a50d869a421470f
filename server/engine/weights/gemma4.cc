// Gemma 4: as Gemma 3, with longer heads in the layers that see everything, keys that other layers
// or the values share, a small input of each layer's own, and experts beside the feed-forward
// network.
#include <algorithm>
#include <cmath>
#include <string>

#include "absl/strings/str_format.h"
#include "server/core/reason.h"
#include "server/engine/weights/decoder_config.h"
#include "server/engine/weights/rope_config.h"

namespace modeld {
namespace {

constexpr DecoderDefaults kDefaults = {.num_kv_heads = 4,
                                       .head_dim = 256,
                                       .max_context = 131072,
                                       .vocab_size = 262144,
                                       .hidden_size = 2304,
                                       .intermediate_size = 9216,
                                       .num_layers = 30,
                                       .num_heads = 8,
                                       .tie_word_embeddings = true,
                                       .activation = "gelu_pytorch_tanh"};

// Heads of the layers without a window.
void ReadFullLayers(ConfigReader& reader, ArchitectureConfig& config) {
  const int64_t head_dim = reader.IntOr("global_head_dim", kHeadDimRange, 512);
  if (head_dim % 2 != 0) {
    reader.Refuse("global_head_dim", std::to_string(head_dim), "must be even: rope turns pairs");
  }
  const bool keys_are_values = reader.BoolOr("attention_k_eq_v", false);
  int64_t kv_heads = config.num_kv_heads;
  if (keys_are_values) kv_heads = reader.IntOr("num_global_key_value_heads", kHeadsRange, kv_heads);
  if (config.num_heads % kv_heads != 0) {
    reader.Refuse("num_global_key_value_heads", std::to_string(kv_heads),
                  absl::StrFormat("must divide num_attention_heads, %d", config.num_heads));
  }
  for (LayerConfig& layer : config.layers) {
    if (layer.window > 0) continue;
    layer.head_dim = head_dim;
    layer.num_kv_heads = kv_heads;
    layer.keys_are_values = keys_are_values;
  }
  ArchitectureConfig of_full = config;
  of_full.head_dim = head_dim;
  config.ropes = {
      ReadRopeOfLayers(
          reader, "full_attention",
          {.theta = 1e6, .partial_rotary_factor = 0.25, .kind = RopeConfig::Kind::kProportional},
          of_full),
      ReadRopeOfLayers(reader, "sliding_attention", {}, config)};
  for (LayerConfig& layer : config.layers) layer.rope = layer.window > 0 ? 1 : 0;
}

// The last layers have keys and values of the last one of their kind before them.
void ReadSharedLayers(ConfigReader& reader, ArchitectureConfig& config) {
  const int64_t shared = reader.IntOr("num_kv_shared_layers", {0, 1 << 12}, 0);
  const bool is_wide = reader.BoolOr("use_double_wide_mlp", false);
  const int64_t first = config.num_layers - shared;
  for (int64_t layer = std::max<int64_t>(first, 0); layer < config.num_layers; ++layer) {
    LayerConfig& mine = config.layers[layer];
    for (int64_t source = 0; source < first; ++source) {
      if ((config.layers[source].window > 0) == (mine.window > 0)) mine.kv_layer = source;
    }
    if (mine.kv_layer < 0) {
      reader.Refuse("num_kv_shared_layers", std::to_string(shared),
                    "must leave a layer of each kind that has keys of its own");
      return;
    }
    mine.wide_mlp = is_wide;
  }
}

void ReadLayerInputs(ConfigReader& reader, ArchitectureConfig& config) {
  config.layer_input_size = reader.IntOr("hidden_size_per_layer_input", {0, 1 << 14}, 256);
  if (config.layer_input_size == 0) return;
  config.layer_input_vocab =
      reader.IntOr("vocab_size_per_layer_input", {1, 1 << 24}, kDefaults.vocab_size);
  if (config.layer_input_vocab < config.vocab_size) {
    reader.Refuse("vocab_size_per_layer_input", std::to_string(config.layer_input_vocab),
                  absl::StrFormat("must be at least vocab_size, %d", config.vocab_size));
  }
}

void ReadGemma4Experts(ConfigReader& reader, ArchitectureConfig& config) {
  if (!reader.BoolOr("enable_moe_block", false)) return;
  reader.Alias("num_experts_per_tok", "top_k_experts");
  ReadExperts(reader, "num_experts", {.num_experts = 1, .experts_per_token = 1}, config);
  config.moe.intermediate_size = reader.Int("moe_intermediate_size", kIntermediateRange);
  config.moe.normalize = true;
  config.moe.layout = ExpertsLayout::kStacked;
  config.moe.scaled_router = true;
  config.experts_beside_mlp = true;
}

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("hidden_act", "hidden_activation");
  ReadDecoder(reader, kDefaults, config);
  config.norm = NormKind::kRmsOnce;
  config.norm_placement = NormPlacement::kAround;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.embedding_multiplier = std::sqrt(static_cast<double>(config.hidden_size));
  config.attention_scale = 1;
  config.qk_norm = QkNorm::kHead;
  config.value_norm = true;
  config.layer_scalar = true;
  config.logit_softcap = reader.NumberOrNone("final_logit_softcapping", {0, 1e6}, 0);
  if (reader.StringOr("use_bidirectional_attention", "vision") != "vision") {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      reader.where() + ": bidirectional attention generates no text"));
  }
  ReadWindows(reader, reader.IntOr("sliding_window", kContextRange, 512), 6, config);
  config.layers.back().window = 0;  // whatever the list says
  ReadFullLayers(reader, config);
  ReadSharedLayers(reader, config);
  ReadLayerInputs(reader, config);
  ReadGemma4Experts(reader, config);
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"},
                             {"attention_after_norm", "post_attention_layernorm"},
                             {"mlp_norm", "pre_feedforward_layernorm"},
                             {"mlp_after_norm", "post_feedforward_layernorm"},
                             {"mlp_only_after_norm", "post_feedforward_layernorm_1"},
                             {"experts_norm", "pre_feedforward_layernorm_2"},
                             {"experts_after_norm", "post_feedforward_layernorm_2"},
                             {"layer_input_after_norm", "post_per_layer_input_norm"},
                             {"layer_input_gate", "per_layer_input_gate"},
                             {"layer_input_projection", "per_layer_projection"},
                             {"model.embed_layers", "model.embed_tokens_per_layer"},
                             {"model.layer_inputs", "model.per_layer_model_projection"},
                             {"model.layer_inputs_norm", "model.per_layer_projection_norm"},
                             {"mlp.router.weight", "router.proj.weight"},
                             {"mlp.router", "router"},
                             {"mlp.experts.gate_up_proj.weight", "experts.gate_up_proj"},
                             {"mlp.experts.down_proj.weight", "experts.down_proj"}};

}  // namespace

const Architecture kGemma4Text = {"gemma4_text", "Gemma4ForCausalLM", Read, kNames};

}  // namespace modeld
