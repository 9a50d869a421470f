// SmolLM3: Llama in which every fourth layer has no rope.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader,
              {.num_kv_heads = 4, .max_context = 32768, .theta = 2e6, .tie_word_embeddings = true},
              config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = reader.BoolOr("mlp_bias", false);
  const int64_t interval = reader.IntOr("no_rope_layer_interval", {1, 1 << 12}, 4);
  const std::vector<int64_t> turned = reader.IntsOf("no_rope_layers", {0, 1});
  if (!turned.empty() && std::ssize(turned) != config.num_layers) {
    reader.Refuse("no_rope_layers", "of another length", "must have a 0 or 1 for each layer");
    return;
  }
  const bool has_windows = reader.BoolOr("use_sliding_window", false);
  const int64_t window =
      has_windows ? reader.IntOrNone("sliding_window", kContextRange, 0) : int64_t{0};
  ReadWindows(reader, window, 1, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const bool turns = turned.empty() ? (layer + 1) % interval != 0 : turned[layer] == 1;
    config.layers[layer].rope = turns ? 0 : -1;
    if (!turns && !reader.Has("layer_types")) config.layers[layer].window = window;
  }
}

}  // namespace

const Architecture kSmolLm3 = {"smollm3", "SmolLM3ForCausalLM", Read, kLlamaNames};

}  // namespace modeld
