// gpt-oss: a mixture of experts in four bits, attention sinks, windows in every second layer.
#include "server/core/reason.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

constexpr int64_t kNumbersOfScale = 32;

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(
      reader,
      {.num_kv_heads = 8, .head_dim = 64, .max_context = 131072, .norm_eps = 1e-5, .theta = 150000},
      config);
  if (!reader.Has("rope_scaling") && !reader.Has("rope_parameters")) {
    reader.Refuse("rope_scaling", "absent", "must be there: positions are scaled");
  }
  ReadWindows(reader, reader.IntOrNone("sliding_window", kContextRange, 128), 2, config);
  config.qkv_bias = reader.BoolOr("attention_bias", true);
  config.attention_output_bias = config.qkv_bias;
  config.attention_sinks = true;
  config.activation = Activation::kClampedSwish;
  config.swish_alpha = reader.NumberOr("swiglu_alpha", {1e-3, 1e3}, 1.702);
  config.swish_limit = reader.NumberOr("swiglu_limit", {1e-3, 1e6}, 7);
  ReadExperts(reader, "num_local_experts", {.num_experts = 128, .experts_per_token = 4}, config);
  config.moe.intermediate_size = config.intermediate_size;
  config.moe.scoring = MoeConfig::Scoring::kSoftmaxOfTop;
  config.moe.layout = ExpertsLayout::kInterleaved;
  config.moe.mxfp4 = reader.Has("quantization_config");
  for (LayerConfig& layer : config.layers) layer.moe = true;
  if (!config.moe.mxfp4) return;
  for (const char* key : {"hidden_size", "intermediate_size"}) {
    if (reader.IntOr(key, kIntermediateRange, kNumbersOfScale) % kNumbersOfScale == 0) continue;
    reader.Refuse(key, "of another size", "must be a multiple of 32 with weights in mxfp4");
  }
}

constexpr Rename kNames[] = {{"attention_norm", "input_layernorm"},
                             {"mlp_norm", "post_attention_layernorm"},
                             {"experts.gate_up_proj.bias", "experts.gate_up_proj_bias"},
                             {"experts.down_proj.bias", "experts.down_proj_bias"},
                             {"experts.gate_up_proj.weight", "experts.gate_up_proj"},
                             {"experts.down_proj.weight", "experts.down_proj"},
                             {"experts.gate_up_proj.blocks", "experts.gate_up_proj_blocks"},
                             {"experts.down_proj.blocks", "experts.down_proj_blocks"},
                             {"experts.gate_up_proj.scales", "experts.gate_up_proj_scales"},
                             {"experts.down_proj.scales", "experts.down_proj_scales"}};

}  // namespace

const Architecture kGptOss = {"gpt_oss", "GptOssForCausalLM", Read, kNames, kUsualRoots, {},
                              "mxfp4"};

}  // namespace modeld
