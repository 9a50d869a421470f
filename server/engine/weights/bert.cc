// BERT, and RoBERTa, whose positions begin behind that of the padding token; XLM-RoBERTa is the
// same under another name.
#include "server/engine/weights/encoder_config.h"

namespace modeld {
namespace {

constexpr Range<int64_t> kTokenTypes{1, 1 << 12};

// Published configurations leave out what the class has as its default.
constexpr DecoderDefaults kDefaults = {.max_context = 512,
                                       .vocab_size = 30522,
                                       .hidden_size = 768,
                                       .intermediate_size = 3072,
                                       .num_layers = 12,
                                       .num_heads = 12,
                                       .norm_eps = 1e-12,
                                       .activation = "gelu"};

void ReadBert(ConfigReader& reader, ArchitectureConfig& config) {
  ReadEncoder(reader, kDefaults, 0, config);
  config.token_types = reader.IntOr("type_vocab_size", kTokenTypes, 2);
}

void ReadRoberta(ConfigReader& reader, ArchitectureConfig& config) {
  config.pad_token_id = reader.IntOr("pad_token_id", {0, 1 << 20}, 1);
  DecoderDefaults defaults = kDefaults;
  defaults.vocab_size = 50265;
  ReadEncoder(reader, defaults, config.pad_token_id + 1, config);
  config.token_types = reader.IntOr("type_vocab_size", kTokenTypes, 2);
}

constexpr Rename kNames[] = {{"model.embed_tokens", "model.embeddings.word_embeddings"},
                             {"model.embed_positions", "model.embeddings.position_embeddings"},
                             {"model.embed_types", "model.embeddings.token_type_embeddings"},
                             {"model.embed_norm", "model.embeddings.LayerNorm"},
                             {"model.layers", "model.encoder.layer"},
                             {"self_attn.q_proj", "attention.self.query"},
                             {"self_attn.k_proj", "attention.self.key"},
                             {"self_attn.v_proj", "attention.self.value"},
                             {"self_attn.o_proj", "attention.output.dense"},
                             {"attention_after_norm", "attention.output.LayerNorm"},
                             {"mlp.up_proj", "intermediate.dense"},
                             {"mlp.down_proj", "output.dense"},
                             {"mlp_after_norm", "output.LayerNorm"}};
constexpr NameRoot kBertRoots[] = {{"", ""}, {"bert.", ""}};
constexpr NameRoot kRobertaRoots[] = {{"", ""}, {"roberta.", ""}};
// Heads of the tasks that they were trained with, and positions that old versions stored.
constexpr std::string_view kIgnored[] = {"pooler.dense.", "cls.predictions.",
                                         "cls.seq_relationship.", "lm_head.",
                                         "embeddings.position_ids"};
constexpr std::string_view kBertClasses[] = {"BertForMaskedLM", "BertForPreTraining"};
constexpr std::string_view kRobertaClasses[] = {"RobertaForMaskedLM"};
constexpr std::string_view kXlmRobertaClasses[] = {"XLMRobertaForMaskedLM"};

}  // namespace

const Architecture kBert = {"bert",     "BertModel", ReadBert, kNames,
                            kBertRoots, kIgnored,    "",       kBertClasses};
const Architecture kRoberta = {"roberta",     "RobertaModel", ReadRoberta, kNames,
                               kRobertaRoots, kIgnored,       "",          kRobertaClasses};
const Architecture kXlmRoberta = {
    "xlm-roberta", "XLMRobertaModel", ReadRoberta, kNames,
    kRobertaRoots, kIgnored,          "",          kXlmRobertaClasses};

}  // namespace modeld
