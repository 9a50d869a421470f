// LFM2: gated convolutions over a few tokens in most layers, attention with norms of queries and
// keys in the others.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

// The published size counts what a feed-forward network without a gate would have.
void AdjustIntermediateSize(ConfigReader& reader, ArchitectureConfig& config) {
  if (!reader.BoolOr("block_auto_adjust_ff_dim", true)) return;
  const double factor = reader.NumberOr("block_ffn_dim_multiplier", {1e-3, 1e3}, 1);
  const int64_t multiple = reader.IntOr("block_multiple_of", {1, 1 << 16}, 256);
  const auto size =
      static_cast<int64_t>(factor * static_cast<double>(2 * config.intermediate_size / 3));
  config.intermediate_size = std::max<int64_t>((size + multiple - 1) / multiple, 1) * multiple;
  if (config.intermediate_size > kIntermediateRange.max) {
    reader.Refuse("block_ffn_dim_multiplier", std::to_string(factor),
                  "makes the feed-forward network too large");
    config.intermediate_size = kIntermediateRange.min;
  }
}

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "norm_eps");
  if (reader.Has("block_ff_dim")) reader.Alias("intermediate_size", "block_ff_dim");
  if (reader.Has("tie_embedding")) reader.Alias("tie_word_embeddings", "tie_embedding");
  ReadDecoder(reader,
              {.num_kv_heads = 8,
               .max_context = 128000,
               .norm_eps = 1e-5,
               .theta = 1e6,
               .tie_word_embeddings = true},
              config);
  AdjustIntermediateSize(reader, config);
  config.qk_norm = QkNorm::kHead;
  config.recurrent.conv_tokens = reader.IntOr("conv_L_cache", kConvTokensRange, 3);
  config.recurrent.conv_channels = config.hidden_size;
  config.recurrent.conv_bias = reader.BoolOr("conv_bias", false);
  config.recurrent.projection_bias = config.recurrent.conv_bias;
  if (reader.Has("layer_types") || !reader.Has("full_attn_idxs")) {
    ReadMixers(reader, {Mixer::kShortConv, "conv"}, 1, config);
    return;
  }
  const std::vector<int64_t> full = reader.IntsOf("full_attn_idxs", {0, 1 << 12});
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const bool attends = std::ranges::find(full, layer) != full.end();
    config.layers[layer].mixer = attends ? Mixer::kAttention : Mixer::kShortConv;
  }
}

constexpr Rename kNames[] = {
    {"attention_norm", "operator_norm"},           {"mlp_norm", "ffn_norm"},
    {"model.norm", "model.embedding_norm"},        {"self_attn.o_proj", "self_attn.out_proj"},
    {"self_attn.q_norm", "self_attn.q_layernorm"}, {"self_attn.k_norm", "self_attn.k_layernorm"},
    {"mlp.gate_proj", "feed_forward.w1"},          {"mlp.up_proj", "feed_forward.w3"},
    {"mlp.down_proj", "feed_forward.w2"}};

}  // namespace

const Architecture kLfm2 = {"lfm2", "Lfm2ForCausalLM", Read, kNames};

}  // namespace modeld
