// Gemma 2 and 3: scaled embeddings, a norm before and after each block, windows in most layers.
// Gemma 2 bends logits; Gemma 3 has norms of queries and keys, and another rope for windows. With
// attention both ways it is EmbeddingGemma.
#include <cmath>

#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

constexpr Range<double> kSoftcap{0, 1e6};

// Keys whose defaults the two share.
void ReadGemma(ConfigReader& reader, const DecoderDefaults& defaults, ArchitectureConfig& config) {
  reader.Alias("hidden_act", "hidden_activation");
  ReadDecoder(reader, defaults, config);
  config.norm = NormKind::kRmsPlusOne;
  config.norm_placement = NormPlacement::kAround;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.embedding_multiplier = std::sqrt(static_cast<double>(config.hidden_size));
  config.attention_scale =
      1 / std::sqrt(reader.NumberOr("query_pre_attn_scalar", {1e-3, 1e6}, 256));
}

void ReadGemma2(ConfigReader& reader, ArchitectureConfig& config) {
  ReadGemma(reader,
            {.num_kv_heads = 4,
             .head_dim = 256,
             .max_context = 8192,
             .tie_word_embeddings = true,
             .activation = "gelu_pytorch_tanh"},
            config);
  config.attention_softcap = reader.NumberOrNone("attn_logit_softcapping", kSoftcap, 50);
  config.logit_softcap = reader.NumberOrNone("final_logit_softcapping", kSoftcap, 30);
  ReadWindows(reader, reader.IntOrNone("sliding_window", kContextRange, 4096), 2, config);
}

// Published configurations leave out what the class has as its default.
void ReadGemma3(ConfigReader& reader, ArchitectureConfig& config) {
  ReadGemma(reader,
            {.num_kv_heads = 4,
             .head_dim = 256,
             .max_context = 131072,
             .vocab_size = 262208,
             .hidden_size = 2304,
             .intermediate_size = 9216,
             .num_layers = 26,
             .num_heads = 8,
             .theta = 1e6,
             .tie_word_embeddings = true,
             .activation = "gelu_pytorch_tanh"},
            config);
  config.qk_norm = QkNorm::kHead;  // in the place of attn_logit_softcapping, which has no effect
  config.logit_softcap = reader.NumberOrNone("final_logit_softcapping", kSoftcap, 0);
  config.both_ways = reader.BoolOr("use_bidirectional_attention", false);
  int64_t window = reader.IntOrNone("sliding_window", kContextRange, 4096);
  // The key counts both sides then.
  if (config.both_ways) window = window / 2 + 1;
  ReadWindows(reader, window, reader.IntOr("sliding_window_pattern", {1, 1 << 12}, 6), config);
  ReadRopeForWindows(reader, 1e6, reader.NumberOr("rope_local_base_freq", {1e-3, 1e15}, 1e4),
                     config);
}

}  // namespace

const Architecture kGemma2 = {"gemma2", "Gemma2ForCausalLM", ReadGemma2, kSandwichNames};
const Architecture kGemma3Text = {"gemma3_text", "Gemma3ForCausalLM", ReadGemma3, kSandwichNames};

}  // namespace modeld
