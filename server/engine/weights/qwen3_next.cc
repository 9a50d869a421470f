// Qwen3-Next (with experts) and the text part of Qwen3.5 (dense): gated delta rule in most layers,
// attention under a gate in every fourth.
#include <string>

#include "absl/strings/str_format.h"
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadDeltaNet(ConfigReader& reader, ArchitectureConfig& config) {
  RecurrentConfig& recurrent = config.recurrent;
  recurrent.conv_tokens = reader.IntOr("linear_conv_kernel_dim", kConvTokensRange, 4);
  recurrent.key_heads = reader.IntOr("linear_num_key_heads", kHeadsRange, 16);
  recurrent.heads = reader.IntOr("linear_num_value_heads", kHeadsRange, 32);
  recurrent.key_dim = reader.IntOr("linear_key_head_dim", kHeadDimRange, 128);
  recurrent.value_dim = reader.IntOr("linear_value_head_dim", kHeadDimRange, 128);
  if (recurrent.heads % recurrent.key_heads != 0) {
    reader.Refuse(
        "linear_num_value_heads", std::to_string(recurrent.heads),
        absl::StrFormat("must be a multiple of linear_num_key_heads, %d", recurrent.key_heads));
  }
  recurrent.conv_channels =
      2 * recurrent.key_heads * recurrent.key_dim + recurrent.heads * recurrent.value_dim;
  ReadMixers(reader, {Mixer::kDeltaNet, "linear_attention"},
             reader.IntOr("full_attention_interval", {1, 1 << 12}, 4), config);
}

void Read(ConfigReader& reader, int64_t num_kv_heads, ArchitectureConfig& config) {
  ReadDecoder(reader,
              {.num_kv_heads = num_kv_heads,
               .head_dim = 256,
               .max_context = 32768,
               .partial_rotary_factor = 0.25},
              config);
  config.norm = NormKind::kRmsPlusOne;
  config.qkv_bias = reader.BoolOr("attention_bias", false);
  config.attention_output_bias = config.qkv_bias;
  config.qk_norm = QkNorm::kHead;
  config.attention_gate = true;
  ReadDeltaNet(reader, config);
}

void ReadQwen3Next(ConfigReader& reader, ArchitectureConfig& config) {
  Read(reader, 2, config);
  config.recurrent.by_key_head = true;
  ReadQwenExperts(reader, {.num_experts = 512, .experts_per_token = 10, .normalize = true}, config);
  config.moe.shared_intermediate_size =
      reader.IntOr("shared_expert_intermediate_size", kIntermediateRange, 512);
  config.moe.shared_gate = true;
}

void ReadQwen35Text(ConfigReader& reader, ArchitectureConfig& config) { Read(reader, 4, config); }

// Layers that predict further tokens, and those that see images.
constexpr std::string_view kIgnored[] = {"mtp.", "model.visual."};

}  // namespace

const Architecture kQwen3Next = {
    "qwen3_next", "Qwen3NextForCausalLM", ReadQwen3Next, kQwenMoeNames, kUsualRoots, kIgnored};
const Architecture kQwen35Text = {"qwen3_5_text", "Qwen3_5ForCausalLM", ReadQwen35Text,
                                  kLlamaNames,    kUsualRoots,          kIgnored};

}  // namespace modeld
