// Granite (dense): Llama with factors on embeddings, attention, residuals and logits.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

constexpr Range<double> kMultiplier{1e-6, 1e6};

}  // namespace

void ReadGranite(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {}, config);
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.mlp_bias = reader.BoolOr("mlp_bias", false);
  config.embedding_multiplier = reader.NumberOr("embedding_multiplier", kMultiplier, 1);
  config.residual_multiplier = reader.NumberOr("residual_multiplier", kMultiplier, 1);
  config.attention_scale = reader.NumberOr("attention_multiplier", kMultiplier, 1);
  config.logit_multiplier = 1 / reader.NumberOr("logits_scaling", kMultiplier, 1);
}

const Architecture kGranite = {"granite", "GraniteForCausalLM", ReadGranite, kLlamaNames};

}  // namespace modeld
