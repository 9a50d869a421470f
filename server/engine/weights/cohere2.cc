// Command R7B and Command A: one norm for attention and feed-forward side by side; only layers with
// a window are turned.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "layer_norm_eps");
  ReadDecoder(reader, {.max_context = 8192, .norm_eps = 1e-5, .tie_word_embeddings = true}, config);
  config.norm = NormKind::kLayerNoBias;
  config.norm_placement = NormPlacement::kParallel;
  config.rope_interleaved = true;
  config.exact_rope = true;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.logit_multiplier = reader.NumberOr("logit_scale", {1e-6, 1e6}, 0.0625);
  ReadWindows(reader, reader.IntOr("sliding_window", kContextRange, 4096),
              reader.IntOr("sliding_window_pattern", {1, 1 << 12}, 4), config);
  TurnWindowsOnly(config);
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"}};

}  // namespace

const Architecture kCohere2 = {"cohere2", "Cohere2ForCausalLM", Read, kNames};

}  // namespace modeld
