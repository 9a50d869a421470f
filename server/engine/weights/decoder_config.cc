#include "server/engine/weights/decoder_config.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// Far above every published model, and small enough that no product of ours overflows int64:
// heads * head_dim * hidden * layers * 4 bytes stays below 2^60.
constexpr Range<int64_t> kHidden{1, 1 << 18};
constexpr Range<int64_t> kIntermediate{1, 1 << 20};
constexpr Range<int64_t> kLayers{1, 1 << 12};
constexpr Range<int64_t> kHeads{1, 1 << 12};
constexpr Range<int64_t> kHeadDim{2, 1 << 12};
constexpr Range<int64_t> kVocab{1, 1 << 24};
constexpr Range<int64_t> kContext{1, 1 << 28};
constexpr Range<double> kFactor{1e-3, 1e6};

void ReadHeads(ConfigReader& reader, const DecoderDefaults& defaults, ArchitectureConfig& config) {
  config.num_heads = reader.Int("num_attention_heads", kHeads);
  const int64_t kv_heads = defaults.num_kv_heads > 0 ? defaults.num_kv_heads : config.num_heads;
  config.num_kv_heads = reader.IntOr("num_key_value_heads", kHeads, kv_heads);
  if (config.num_heads % config.num_kv_heads != 0) {
    reader.Refuse("num_key_value_heads", std::to_string(config.num_kv_heads),
                  absl::StrFormat("must divide num_attention_heads, %d", config.num_heads));
  }
  if (!reader.Has("head_dim") && defaults.head_dim == 0 &&
      config.hidden_size % config.num_heads != 0) {
    reader.Refuse(
        "hidden_size", std::to_string(config.hidden_size),
        absl::StrFormat("must be a multiple of num_attention_heads, %d", config.num_heads));
  }
  const int64_t head_dim =
      defaults.head_dim > 0 ? defaults.head_dim : config.hidden_size / config.num_heads;
  config.head_dim = reader.IntOr("head_dim", kHeadDim, head_dim);
  if (config.head_dim < kHeadDim.min || config.head_dim > kHeadDim.max ||
      config.head_dim % 2 != 0) {
    reader.Refuse("head_dim", std::to_string(config.head_dim),
                  absl::StrFormat("must be even, from %d to %d: rope turns pairs", kHeadDim.min,
                                  kHeadDim.max));
  }
}

void ReadRopeKind(ConfigReader& reader, RopeConfig& rope) {
  const std::string type = reader.StringOr("rope_type", reader.StringOr("type", "default"));
  if (reader.NumberOr("partial_rotary_factor", {0, 1}, 1) != 1) {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      absl::StrCat(reader.where(), ": partial_rotary_factor other than 1")));
  }
  if (type == "default") return;
  if (type == "linear") {
    rope.kind = RopeConfig::Kind::kLinear;
    rope.factor = reader.NumberOr("factor", kFactor, 0);
  } else if (type == "llama3") {
    rope.kind = RopeConfig::Kind::kLlama3;
    rope.factor = reader.NumberOr("factor", kFactor, 0);
    rope.low_frequency_factor = reader.NumberOr("low_freq_factor", kFactor, 1);
    rope.high_frequency_factor = reader.NumberOr("high_freq_factor", kFactor, 4);
    rope.original_context = reader.IntOr("original_max_position_embeddings", kContext, 8192);
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      reader.Refuse(
          "high_freq_factor", absl::StrFormat("%g", rope.high_frequency_factor),
          absl::StrFormat("must be above low_freq_factor, %g", rope.low_frequency_factor));
    }
  } else {
    reader.Fail(Error(
        Reason::kUnsupportedArchitecture,
        absl::StrFormat("%s: rope type \"%s\" is not supported (default, linear and llama3 are)",
                        reader.where(), type)));
  }
  if (rope.factor == 0) {
    reader.Fail(
        Error(Reason::kInvalidRepository,
              absl::StrFormat("%s: factor is missing for rope type \"%s\"", reader.where(), type)));
  }
}

}  // namespace

void ReadRope(ConfigReader& reader, RopeConfig& rope) {
  constexpr Range<double> kTheta{1e-3, 1e15};
  rope.theta = reader.NumberOr("rope_theta", kTheta, 10000);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!reader.Has(key)) continue;
    ConfigReader nested(reader.ObjectAt(key), absl::StrCat(reader.where(), ": ", key));
    rope.theta = nested.NumberOr("rope_theta", kTheta, rope.theta);
    ReadRopeKind(nested, rope);
    reader.Fail(nested.status());
    return;  // a file with both is of the time of the change, and they agree
  }
}

void ReadDecoder(ConfigReader& reader, const DecoderDefaults& defaults,
                 ArchitectureConfig& config) {
  config.hidden_size = reader.Int("hidden_size", kHidden);
  config.intermediate_size = reader.Int("intermediate_size", kIntermediate);
  config.num_layers = reader.Int("num_hidden_layers", kLayers);
  config.vocab_size = reader.Int("vocab_size", kVocab);
  config.max_context = reader.IntOr("max_position_embeddings", kContext, defaults.max_context);
  ReadHeads(reader, defaults, config);
  config.rms_norm_eps = reader.NumberOr("rms_norm_eps", {1e-12, 1}, 1e-6);
  config.tie_word_embeddings = reader.BoolOr("tie_word_embeddings", false);
  ReadRope(reader, config.rope);
  const std::string activation = reader.StringOr("hidden_act", "silu");
  if (activation != "silu") {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      absl::StrFormat("%s: hidden_act \"%s\" is not supported (silu is)",
                                      reader.where(), activation)));
  }
}

void RefuseSlidingWindow(ConfigReader& reader, const ArchitectureConfig& config) {
  if (!reader.BoolOr("use_sliding_window", false)) return;
  const int64_t window = reader.IntOr("sliding_window", kContext, config.max_context);
  if (window >= config.max_context) return;
  reader.Fail(Error(
      Reason::kUnsupportedArchitecture,
      absl::StrFormat("%s: attention over a sliding window of %d of %d tokens is not supported",
                      reader.where(), window, config.max_context)));
}

std::vector<TensorShape> DecoderTensors(const ArchitectureConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t query = config.num_heads * config.head_dim;
  const int64_t key = config.num_kv_heads * config.head_dim;
  std::vector<TensorShape> tensors = {{"model.embed_tokens.weight", {config.vocab_size, hidden}},
                                      {"model.norm.weight", {hidden}}};
  if (!config.tie_word_embeddings) {
    tensors.push_back({"lm_head.weight", {config.vocab_size, hidden}});
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const auto add = [&](std::string_view name, std::vector<int64_t> shape) {
      tensors.push_back({prefix + std::string(name), std::move(shape), layer});
    };
    const auto add_linear = [&](const std::string& name, int64_t out, int64_t in, bool bias) {
      add(name + ".weight", {out, in});
      if (bias) add(name + ".bias", {out});
    };
    add("input_layernorm.weight", {hidden});
    add_linear("self_attn.q_proj", query, hidden, config.qkv_bias);
    add_linear("self_attn.k_proj", key, hidden, config.qkv_bias);
    add_linear("self_attn.v_proj", key, hidden, config.qkv_bias);
    if (config.qk_norm) {
      add("self_attn.q_norm.weight", {config.head_dim});
      add("self_attn.k_norm.weight", {config.head_dim});
    }
    add_linear("self_attn.o_proj", hidden, query, config.attention_output_bias);
    add("post_attention_layernorm.weight", {hidden});
    add_linear("mlp.gate_proj", config.intermediate_size, hidden, config.mlp_bias);
    add_linear("mlp.up_proj", config.intermediate_size, hidden, config.mlp_bias);
    add_linear("mlp.down_proj", hidden, config.intermediate_size, config.mlp_bias);
  }
  return tensors;
}

}  // namespace modeld
