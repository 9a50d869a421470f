#include "server/engine/weights/decoder_config.h"

#include <cmath>
#include <string>

#include "absl/strings/str_format.h"
#include "server/core/reason.h"
#include "server/engine/weights/rope_config.h"

namespace modeld {
namespace {

// Far above every published model, and small enough that no product of ours overflows int64:
// heads * head_dim * hidden * layers * 4 bytes stays below 2^60.
constexpr Range<int64_t> kHidden{1, 1 << 18};
constexpr Range<int64_t> kLayers{1, 1 << 12};
constexpr Range<int64_t> kHeadDim{2, 1 << 12};
constexpr Range<int64_t> kVocab{1, 1 << 24};

// A size that must be there unless the family has a default.
int64_t Size(ConfigReader& reader, std::string_view key, Range<int64_t> range, int64_t fallback) {
  return fallback > 0 ? reader.IntOr(key, range, fallback) : reader.Int(key, range);
}

void ReadHeads(ConfigReader& reader, const DecoderDefaults& defaults, ArchitectureConfig& config) {
  config.num_heads = Size(reader, "num_attention_heads", kHeadsRange, defaults.num_heads);
  const int64_t kv_heads = defaults.num_kv_heads > 0 ? defaults.num_kv_heads : config.num_heads;
  config.num_kv_heads = reader.IntOr("num_key_value_heads", kHeadsRange, kv_heads);
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
    config.head_dim = kHeadDim.min;
  }
}

Activation ReadActivation(ConfigReader& reader, std::string_view fallback) {
  const std::string name = reader.StringOr("hidden_act", fallback);
  if (name == "silu" || name == "swish") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new" || name == "gelu_pytorch_tanh" || name == "gelu_fast") {
    return Activation::kGeluTanh;
  }
  reader.Fail(Error(Reason::kUnsupportedArchitecture,
                    absl::StrFormat("%s: hidden_act \"%s\" is not supported (silu and gelu are)",
                                    reader.where(), name)));
  return Activation::kSilu;
}

// What the first published files of hybrids say, and what it is called since.
std::string_view LayerTypeNow(std::string_view type) {
  if (type == "mamba") return "linear_attention";
  if (type == "attention") return "full_attention";
  return type;
}

// Of each layer whether "layer_types" calls it `other` and not "full_attention"; without that key
// every `full_every`th is the latter.
std::vector<bool> OtherThanFull(ConfigReader& reader, std::string_view other, int64_t full_every,
                                const ArchitectureConfig& config) {
  std::vector<bool> is_other(config.num_layers);
  const std::vector<std::string> types = reader.StringsOf("layer_types");
  if (reader.Has("layer_types") && std::ssize(types) != config.num_layers) {
    reader.Refuse("layer_types", absl::StrFormat("a list of %d", types.size()),
                  absl::StrFormat("must have a name for each of the %d layers", config.num_layers));
    return is_other;
  }
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (types.empty()) {
      is_other[layer] = (layer + 1) % full_every != 0;
    } else if (LayerTypeNow(types[layer]) == other) {
      is_other[layer] = true;
    } else if (LayerTypeNow(types[layer]) != "full_attention") {
      reader.Fail(Error(Reason::kUnsupportedArchitecture,
                        absl::StrFormat("%s: layers of the type \"%s\" are not supported",
                                        reader.where(), types[layer])));
    }
  }
  return is_other;
}

}  // namespace

void ReadDecoder(ConfigReader& reader, const DecoderDefaults& defaults,
                 ArchitectureConfig& config) {
  config.hidden_size = Size(reader, "hidden_size", kHidden, defaults.hidden_size);
  config.intermediate_size =
      Size(reader, "intermediate_size", kIntermediateRange, defaults.intermediate_size);
  config.num_layers = Size(reader, "num_hidden_layers", kLayers, defaults.num_layers);
  config.vocab_size = Size(reader, "vocab_size", kVocab, defaults.vocab_size);
  config.max_context = reader.IntOr("max_position_embeddings", kContextRange, defaults.max_context);
  ReadHeads(reader, defaults, config);
  config.norm_eps = reader.NumberOr("rms_norm_eps", {1e-12, 1}, defaults.norm_eps);
  config.tie_word_embeddings = reader.BoolOr("tie_word_embeddings", defaults.tie_word_embeddings);
  config.layers.assign(config.num_layers,
                       {.head_dim = config.head_dim, .num_kv_heads = config.num_kv_heads});
  config.attention_scale = 1 / std::sqrt(static_cast<double>(config.head_dim));
  config.activation = ReadActivation(reader, defaults.activation);
  config.ropes = {ReadRope(reader, {defaults.theta, defaults.partial_rotary_factor}, config)};
}

void SetWindow(int64_t window, ArchitectureConfig& config) {
  for (LayerConfig& layer : config.layers) layer.window = window;
}

void TurnWindowsOnly(ArchitectureConfig& config) {
  for (LayerConfig& layer : config.layers) layer.rope = layer.window > 0 ? 0 : -1;
}

void ReadRopeForWindows(ConfigReader& reader, double full_theta, double sliding_theta,
                        ArchitectureConfig& config) {
  if (HasRopeByLayers(reader)) {
    config.ropes = {ReadRopeOfLayers(reader, "full_attention", {full_theta}, config),
                    ReadRopeOfLayers(reader, "sliding_attention", {sliding_theta}, config)};
  } else {
    config.ropes = {ReadRope(reader, {full_theta}, config), {}};
    config.ropes[1].theta = sliding_theta;
    config.ropes[1].rotary_dim = config.head_dim;
  }
  for (LayerConfig& layer : config.layers) layer.rope = layer.window > 0 ? 1 : 0;
}

void ReadWindows(ConfigReader& reader, int64_t window, int64_t full_every,
                 ArchitectureConfig& config) {
  const std::vector<bool> is_sliding =
      OtherThanFull(reader, "sliding_attention", full_every, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers[layer].window = is_sliding[layer] ? window : 0;
  }
}

void ReadMixers(ConfigReader& reader, const NamedMixer& named, int64_t full_every,
                ArchitectureConfig& config) {
  const std::vector<bool> is_other = OtherThanFull(reader, named.name, full_every, config);
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    config.layers[layer].mixer = is_other[layer] ? named.mixer : Mixer::kAttention;
  }
}

void ReadQwenWindows(ConfigReader& reader, ArchitectureConfig& config) {
  if (!reader.BoolOr("use_sliding_window", false)) return;
  const int64_t window = reader.IntOr("sliding_window", kContextRange, 4096);
  const int64_t full_layers = reader.IntOr("max_window_layers", {0, 1 << 12}, 28);
  ReadWindows(reader, window, 1, config);
  if (reader.Has("layer_types")) return;
  for (int64_t layer = full_layers; layer < config.num_layers; ++layer) {
    config.layers[layer].window = window;
  }
}

}  // namespace modeld
