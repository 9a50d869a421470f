// MPNet: BERT without kinds of tokens, with learned logits for the distance of two tokens.
#include "server/engine/weights/encoder_config.h"

namespace modeld {
namespace {

// The class does not read the padding token from the file.
constexpr int64_t kPadToken = 1;

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadEncoder(reader,
              {.max_context = 512,
               .vocab_size = 30527,
               .hidden_size = 768,
               .intermediate_size = 3072,
               .num_layers = 12,
               .num_heads = 12,
               .norm_eps = 1e-12,
               .activation = "gelu"},
              kPadToken + 1, config);
  config.pad_token_id = kPadToken;
  config.relative_buckets =
      reader.IntOr("relative_attention_num_buckets", {kRelativeBuckets, 1 << 12}, kRelativeBuckets);
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.embeddings.word_embeddings"},
                             {"model.embed_positions", "model.embeddings.position_embeddings"},
                             {"model.embed_norm", "model.embeddings.LayerNorm"},
                             {"model.relative_bias", "model.encoder.relative_attention_bias"},
                             {"model.layers", "model.encoder.layer"},
                             {"self_attn.q_proj", "attention.attn.q"},
                             {"self_attn.k_proj", "attention.attn.k"},
                             {"self_attn.v_proj", "attention.attn.v"},
                             {"self_attn.o_proj", "attention.attn.o"},
                             {"attention_after_norm", "attention.LayerNorm"},
                             {"mlp.up_proj", "intermediate.dense"},
                             {"mlp.down_proj", "output.dense"},
                             {"mlp_after_norm", "output.LayerNorm"}};
constexpr NameRoot kRoots[] = {{"", ""}, {"mpnet.", ""}};
constexpr std::string_view kIgnored[] = {"pooler.dense.", "lm_head.", "embeddings.position_ids"};
constexpr std::string_view kClasses[] = {"MPNetForMaskedLM"};

}  // namespace

const Architecture kMpnet = {"mpnet", "MPNetModel", Read, kNames, kRoots, kIgnored, "", kClasses};

}  // namespace modeld
