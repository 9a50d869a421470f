// Nomic's BERT: rope in the place of learned positions, gated feed-forward networks, no biases.
#include "server/core/reason.h"
#include "server/engine/weights/encoder_config.h"
#include "server/engine/weights/rope_config.h"

namespace modeld {
namespace {

// The keys that published files have from before the class was part of transformers.
void UseOldKeys(ConfigReader& reader) {
  reader.Alias("hidden_size", "n_embd");
  reader.Alias("intermediate_size", "n_inner");
  reader.Alias("num_hidden_layers", "n_layer");
  reader.Alias("num_attention_heads", "n_head");
  reader.Alias("max_position_embeddings", "max_trained_positions");
  reader.Alias("rms_norm_eps", "layer_norm_epsilon");
  reader.Alias("rope_theta", "rotary_emb_base");
  reader.Alias("partial_rotary_factor", "rotary_emb_fraction");
  for (const char* key : {"prenorm", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias",
                          "use_rms_norm", "rotary_emb_interleaved", "causal"}) {
    RequireFlag(reader, key, false);
  }
  if (reader.StringOr("activation_function", "swiglu") != "swiglu" ||
      reader.IntOr("moe_every_n_layers", {0, 1 << 12}, 0) > 0) {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      reader.where() + ": mixtures of experts and other activations than swiglu "
                                       "are not supported"));
  }
}

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  if (reader.Has("n_embd")) UseOldKeys(reader);
  ReadEncoder(reader,
              {.max_context = 2048,
               .vocab_size = 30528,
               .hidden_size = 768,
               .intermediate_size = 3072,
               .num_layers = 12,
               .num_heads = 12,
               .norm_eps = 1e-12,
               .theta = 1000},
              0, config);
  config.ropes = {ReadRope(reader, {.theta = 1000}, config)};
  config.position_embedding = false;
  config.token_types = reader.IntOr("type_vocab_size", {1, 1 << 12}, 2);
  config.qkv_layout = QkvLayout::kFused;
  config.gated_mlp = true;
  config.qkv_bias = false;
  config.attention_output_bias = false;
  config.mlp_bias = false;
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.embeddings.word_embeddings"},
                             {"model.embed_types", "model.embeddings.token_type_embeddings"},
                             {"model.embed_norm", "model.emb_ln"},
                             {"model.layers", "model.encoder.layers"},
                             {"self_attn.qkv_proj", "attn.Wqkv"},
                             {"self_attn.o_proj", "attn.out_proj"},
                             {"attention_after_norm", "norm1"},
                             {"mlp.up_proj", "mlp.fc11"},
                             {"mlp.gate_proj", "mlp.fc12"},
                             {"mlp.down_proj", "mlp.fc2"},
                             {"mlp_after_norm", "norm2"}};
constexpr NameRoot kRoots[] = {{"", ""}, {"nomic_bert.", ""}, {"bert.", ""}};
constexpr std::string_view kIgnored[] = {"pooler.dense.", "cls.predictions."};
constexpr std::string_view kClasses[] = {"NomicBertForMaskedLM"};

}  // namespace

const Architecture kNomicBert = {"nomic_bert", "NomicBertModel", Read, kNames,
                                 kRoots,       kIgnored,         "",   kClasses};

}  // namespace modeld
