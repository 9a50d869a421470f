// OLMo 2 and 3: norms after the blocks and over all queries and keys of a token; OLMo 3 has
// windows. OLMoE: the same norms of queries and keys, norms before the blocks, a mixture of
// experts.
#include "server/core/reason.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadOlmo2(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.norm_eps = 1e-5}, config);
  config.norm = NormKind::kRmsOnce;
  config.norm_placement = NormPlacement::kAfter;
  config.qk_norm = QkNorm::kWhole;
  config.exact_rope = true;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
}

void ReadOlmo3(ConfigReader& reader, ArchitectureConfig& config) {
  ReadOlmo2(reader, config);
  ReadWindows(reader, reader.IntOrNone("sliding_window", kContextRange, 4096), 4, config);
  // As in the reference rope_theta, like rope_scaling, is of the layers without a window.
  ReadRopeForWindows(reader, 500000, 500000, config);
}

void ReadOlmoe(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.max_context = 4096, .norm_eps = 1e-5}, config);
  config.qk_norm = QkNorm::kWhole;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  ReadExperts(reader, "num_experts", {.num_experts = 64, .experts_per_token = 8}, config);
  config.moe.intermediate_size = config.intermediate_size;
  config.moe.normalize = reader.BoolOr("norm_topk_prob", false);
  for (LayerConfig& layer : config.layers) layer.moe = true;
  if (reader.Has("clip_qkv")) {
    reader.Fail(
        Error(Reason::kUnsupportedArchitecture, reader.where() + ": clip_qkv is not supported"));
  }
}

constexpr Rename kOlmoeNames[] = {{"attention_norm", "input_layernorm"},
                                  {"mlp_norm", "post_attention_layernorm"},
                                  {"mlp.router", "mlp.gate"}};

}  // namespace

const Architecture kOlmo2 = {"olmo2", "Olmo2ForCausalLM", ReadOlmo2, kAfterNames};
const Architecture kOlmo3 = {"olmo3", "Olmo3ForCausalLM", ReadOlmo3, kAfterNames};
const Architecture kOlmoe = {"olmoe", "OlmoeForCausalLM", ReadOlmoe, kOlmoeNames};

}  // namespace modeld
