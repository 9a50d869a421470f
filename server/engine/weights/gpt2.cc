// GPT-2: learned positions, layer norms, biases, matrices stored the other way round.
#include "server/core/reason.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("hidden_size", "n_embd");
  reader.Alias("intermediate_size", "n_inner");
  reader.Alias("num_hidden_layers", "n_layer");
  reader.Alias("num_attention_heads", "n_head");
  reader.Alias("max_position_embeddings", "n_positions");
  reader.Alias("rms_norm_eps", "layer_norm_epsilon");
  reader.Alias("hidden_act", "activation_function");
  ReadDecoder(reader,
              {.max_context = 1024,
               .vocab_size = 50257,
               .hidden_size = 768,
               .intermediate_size = 4 * reader.IntOr("hidden_size", {1, 1 << 18}, 768),
               .num_layers = 12,
               .num_heads = 12,
               .norm_eps = 1e-5,
               .tie_word_embeddings = true,
               .activation = "gelu_new"},
              config);
  config.ropes.clear();
  config.position_embedding = true;
  config.norm = NormKind::kLayer;
  config.qkv_layout = QkvLayout::kFused;
  config.transposed_linear = true;
  config.gated_mlp = false;
  config.qkv_bias = true;
  config.attention_output_bias = true;
  config.mlp_bias = true;
  if (!reader.BoolOr("scale_attn_weights", true)) config.attention_scale = 1;
  if (reader.BoolOr("scale_attn_by_inverse_layer_idx", false)) {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      reader.where() + ": scale_attn_by_inverse_layer_idx is not supported"));
  }
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.wte"},
                             {"model.embed_positions", "model.wpe"},
                             {"model.norm", "model.ln_f"},
                             {"model.layers", "model.h"},
                             {"attention_norm", "ln_1"},
                             {"mlp_norm", "ln_2"},
                             {"self_attn.qkv_proj", "attn.c_attn"},
                             {"self_attn.o_proj", "attn.c_proj"},
                             {"mlp.up_proj", "mlp.c_fc"},
                             {"mlp.down_proj", "mlp.c_proj"}};
constexpr NameRoot kRoots[] = {{"", ""}, {"transformer.", ""}};
// Masks that old versions stored.
constexpr std::string_view kIgnored[] = {".attn.bias", ".attn.masked_bias"};

}  // namespace

const Architecture kGpt2 = {"gpt2", "GPT2LMHeadModel", Read, kNames, kRoots, kIgnored};

}  // namespace modeld
