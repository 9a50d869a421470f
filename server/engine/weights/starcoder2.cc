// StarCoder2: layer norms and biases, a feed-forward network without a gate.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "norm_epsilon");
  ReadDecoder(reader,
              {.num_kv_heads = 2,
               .max_context = 4096,
               .norm_eps = 1e-5,
               .tie_word_embeddings = true,
               .activation = "gelu_pytorch_tanh"},
              config);
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 0), config);
  config.norm = NormKind::kLayer;
  config.gated_mlp = false;
  config.qkv_bias = reader.BoolOr("use_bias", true);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = config.qkv_bias;
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"},
                             {"mlp_norm", "post_attention_layernorm"},
                             {"mlp.up_proj", "mlp.c_fc"},
                             {"mlp.down_proj", "mlp.c_proj"}};

}  // namespace

const Architecture kStarcoder2 = {"starcoder2", "Starcoder2ForCausalLM", Read, kNames};

}  // namespace modeld
