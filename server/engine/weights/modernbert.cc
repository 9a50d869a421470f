// ModernBERT: rope, windows in most layers, gated feed-forward networks, norms before the blocks.
#include "server/engine/weights/encoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "norm_eps");
  reader.Alias("hidden_act", "hidden_activation");
  ReadDecoder(reader,
              {.max_context = 8192,
               .vocab_size = 50368,
               .hidden_size = 768,
               .intermediate_size = 1152,
               .num_layers = 22,
               .num_heads = 12,
               .norm_eps = 1e-5,
               .activation = "gelu"},
              config);
  config.both_ways = true;
  config.embedding_norm = true;
  config.layers[0].attention_norm = false;
  config.norm = reader.BoolOr("norm_bias", false) ? NormKind::kLayer : NormKind::kLayerNoBias;
  config.qkv_layout = QkvLayout::kFused;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.exact_rope = true;
  config.fused_gate_up = true;
  config.mlp_bias = reader.BoolOr("mlp_bias", false);
  // The key counts both sides.
  const int64_t window = reader.IntOr("local_attention", kContextRange, 128) / 2 + 1;
  if (reader.Has("layer_types")) {
    ReadWindows(reader, window, 1, config);
  } else {
    const int64_t full_every = reader.IntOr("global_attn_every_n_layers", {1, 1 << 12}, 3);
    for (int64_t layer = 0; layer < config.num_layers; ++layer) {
      config.layers[layer].window = layer % full_every != 0 ? window : 0;
    }
  }
  constexpr Range<double> kTheta{1e-3, 1e15};
  ReadRopeForWindows(reader, reader.NumberOr("global_rope_theta", kTheta, 160000),
                     reader.NumberOr("local_rope_theta", kTheta, 10000), config);
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.embeddings.tok_embeddings"},
                             {"model.embed_norm", "model.embeddings.norm"},
                             {"model.norm", "model.final_norm"},
                             {"attention_norm", "attn_norm"},
                             {"self_attn.qkv_proj", "attn.Wqkv"},
                             {"self_attn.o_proj", "attn.Wo"},
                             {"mlp.gate_up_proj", "mlp.Wi"},
                             {"mlp.down_proj", "mlp.Wo"}};
constexpr NameRoot kRoots[] = {{"", ""}, {"model.", ""}};
// The head for masked tokens.
constexpr std::string_view kIgnored[] = {"head.dense.", "head.norm.", "decoder."};
constexpr std::string_view kClasses[] = {"ModernBertForMaskedLM"};

}  // namespace

const Architecture kModernBert = {"modernbert", "ModernBertModel", Read, kNames,
                                  kRoots,       kIgnored,          "",   kClasses};

}  // namespace modeld
