// GPT-NeoX and Pythia: attention and feed-forward side by side, queries, keys and values by head.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "layer_norm_eps");
  if (reader.Has("rotary_emb_base")) reader.Alias("rope_theta", "rotary_emb_base");
  if (reader.Has("rotary_pct")) reader.Alias("partial_rotary_factor", "rotary_pct");
  ReadDecoder(reader, {.norm_eps = 1e-5, .partial_rotary_factor = 0.25, .activation = "gelu"},
              config);
  for (LayerConfig& layer : config.layers) layer.num_kv_heads = config.num_heads;
  config.norm = NormKind::kLayer;
  const bool is_parallel = reader.BoolOr("use_parallel_residual", true);
  config.norm_placement = is_parallel ? NormPlacement::kParallelOfTwo : NormPlacement::kBefore;
  config.qkv_layout = QkvLayout::kFusedByHead;
  config.gated_mlp = false;
  config.qkv_bias = reader.BoolOr("attention_bias", true);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = true;
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.embed_in"},
                             {"model.norm", "model.final_layer_norm"},
                             {"lm_head", "embed_out"},
                             {"attention_norm", "input_layernorm"},
                             {"mlp_norm", "post_attention_layernorm"},
                             {"self_attn.qkv_proj", "attention.query_key_value"},
                             {"self_attn.o_proj", "attention.dense"},
                             {"mlp.up_proj", "mlp.dense_h_to_4h"},
                             {"mlp.down_proj", "mlp.dense_4h_to_h"}};
constexpr NameRoot kRoots[] = {{"gpt_neox.", ""}};
// Masks that old versions stored.
constexpr std::string_view kIgnored[] = {".attention.bias", ".attention.masked_bias"};

}  // namespace

const Architecture kGptNeoX = {"gpt_neox", "GPTNeoXForCausalLM", Read, kNames, kRoots, kIgnored};

}  // namespace modeld
