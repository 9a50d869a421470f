#include "server/engine/weights/rope_config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr Range<int64_t> kContext{1, 1 << 28};
constexpr Range<double> kFactor{1e-3, 1e6};
constexpr Range<double> kTheta{1e-3, 1e15};

double ReadFactor(ConfigReader& reader, std::string_view type) {
  if (!reader.Has("factor")) {
    reader.Fail(
        Error(Reason::kInvalidRepository,
              absl::StrFormat("%s: factor is missing for rope type \"%s\"", reader.where(), type)));
  }
  return reader.NumberOr("factor", kFactor, 1);
}

void ReadLlama3(ConfigReader& reader, RopeConfig& rope) {
  rope.kind = RopeConfig::Kind::kLlama3;
  rope.factor = ReadFactor(reader, "llama3");
  rope.low_frequency_factor = reader.NumberOr("low_freq_factor", kFactor, 1);
  rope.high_frequency_factor = reader.NumberOr("high_freq_factor", kFactor, 4);
  rope.original_context = reader.IntOr("original_max_position_embeddings", kContext, 8192);
  if (rope.high_frequency_factor <= rope.low_frequency_factor) {
    reader.Refuse("high_freq_factor", absl::StrFormat("%g", rope.high_frequency_factor),
                  absl::StrFormat("must be above low_freq_factor, %g", rope.low_frequency_factor));
  }
}

// Of a scale `factor` times as long.
double Magnitude(double factor, double weight) {
  return factor <= 1 ? 1 : 0.1 * weight * std::log(factor) + 1;
}

void ReadYarn(ConfigReader& reader, const ArchitectureConfig& config, RopeConfig& rope) {
  rope.kind = RopeConfig::Kind::kYarn;
  rope.original_context =
      reader.IntOr("original_max_position_embeddings", kContext, config.max_context);
  rope.factor = reader.NumberOr(
      "factor", kFactor,
      static_cast<double>(config.max_context) / static_cast<double>(rope.original_context));
  rope.beta_fast = reader.NumberOr("beta_fast", kFactor, 32);
  rope.beta_slow = reader.NumberOr("beta_slow", kFactor, 1);
  rope.truncate = reader.BoolOr("truncate", true);
  const double weight = reader.NumberOr("mscale", {0, 100}, 0);
  const double weight_all = reader.NumberOr("mscale_all_dim", {0, 100}, 0);
  const double usual = weight != 0 && weight_all != 0
                           ? Magnitude(rope.factor, weight) / Magnitude(rope.factor, weight_all)
                           : Magnitude(rope.factor, 1);
  rope.attention_factor = reader.NumberOr("attention_factor", kFactor, usual);
  if (weight_all != 0) rope.score_factor = std::pow(Magnitude(rope.factor, weight_all), 2);
}

void ReadLongRope(ConfigReader& reader, const ArchitectureConfig& config, RopeConfig& rope) {
  rope.kind = RopeConfig::Kind::kLongRope;
  rope.original_context =
      reader.IntOr("original_max_position_embeddings", kContext, rope.original_context);
  rope.factor = reader.NumberOr(
      "factor", kFactor,
      static_cast<double>(config.max_context) / static_cast<double>(rope.original_context));
  const double usual =
      rope.factor <= 1 || rope.original_context == 1
          ? 1
          : std::sqrt(1 +
                      std::log(rope.factor) / std::log(static_cast<double>(rope.original_context)));
  rope.attention_factor = reader.NumberOr("attention_factor", kFactor, usual);
  rope.short_factors = reader.NumbersOf("short_factor", kFactor);
  rope.long_factors = reader.NumbersOf("long_factor", kFactor);
  const auto wanted = static_cast<size_t>(rope.rotary_dim / 2);
  for (const auto& [key, factors] : {std::pair("short_factor", &rope.short_factors),
                                     std::pair("long_factor", &rope.long_factors)}) {
    if (factors->size() == wanted) continue;
    reader.Refuse(key, absl::StrCat("a list of ", factors->size()),
                  absl::StrFormat("must have %d numbers", wanted));
  }
}

void SetProportional(const ArchitectureConfig& config, RopeConfig& rope) {
  rope.kind = RopeConfig::Kind::kProportional;
  rope.turned_dim = rope.rotary_dim;
  rope.rotary_dim = config.head_dim;
}

// `reader` is of rope_parameters or rope_scaling.
void ReadKind(ConfigReader& reader, const ArchitectureConfig& config, RopeConfig& rope) {
  const std::string type = reader.StringOr("rope_type", reader.StringOr("type", "default"));
  // Dynamic frequencies change only beyond max_position_embeddings, where no sequence of ours gets.
  if (type == "default" || type == "dynamic") return;
  if (type == "linear") {
    rope.kind = RopeConfig::Kind::kLinear;
    rope.factor = ReadFactor(reader, type);
  } else if (type == "llama3") {
    ReadLlama3(reader, rope);
  } else if (type == "yarn") {
    ReadYarn(reader, config, rope);
  } else if (type == "longrope" || type == "su") {
    ReadLongRope(reader, config, rope);
  } else if (type == "proportional") {
    rope.factor = reader.NumberOr("factor", kFactor, 1);
    SetProportional(config, rope);
  } else {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      absl::StrFormat("%s: rope type \"%s\" is not supported (default, linear, "
                                      "dynamic, llama3, yarn, longrope and proportional are)",
                                      reader.where(), type)));
  }
}

// The elements of a head that are turned.
int64_t RotaryDim(ConfigReader& reader, double share, const ArchitectureConfig& config) {
  const auto dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
  if (dim < 2 || dim % 2 != 0) {
    reader.Refuse("partial_rotary_factor", absl::StrFormat("%g", share),
                  absl::StrFormat("must leave an even part of head_dim, %d", config.head_dim));
    return 2;
  }
  return dim;
}

RopeConfig ReadObject(const nlohmann::json& object, const std::string& where, RopeConfig rope,
                      ConfigReader& outer, double share, const ArchitectureConfig& config) {
  ConfigReader nested(object, where);
  rope.theta = nested.NumberOr("rope_theta", kTheta, rope.theta);
  rope.rotary_dim =
      RotaryDim(nested, nested.NumberOr("partial_rotary_factor", {0, 1}, share), config);
  ReadKind(nested, config, rope);
  outer.Fail(nested.status());
  return rope;
}

}  // namespace

RopeConfig ReadRope(ConfigReader& reader, const RopeDefaults& defaults,
                    const ArchitectureConfig& config) {
  RopeConfig rope;
  rope.theta = reader.NumberOr("rope_theta", kTheta, defaults.theta);
  rope.original_context =
      reader.IntOr("original_max_position_embeddings", kContext, config.max_context);
  const double share =
      reader.NumberOr("partial_rotary_factor", {0, 1}, defaults.partial_rotary_factor);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!reader.Has(key)) continue;
    // A file with both is of the time of the change, and they agree.
    return ReadObject(reader.ObjectAt(key), absl::StrCat(reader.where(), ": ", key), rope, reader,
                      share, config);
  }
  rope.rotary_dim = RotaryDim(reader, share, config);
  return rope;
}

bool HasRopeByLayers(ConfigReader& reader) {
  if (!reader.Has("rope_parameters")) return false;
  const ConfigReader by_type(reader.ObjectAt("rope_parameters"), reader.where());
  return by_type.Has("full_attention") || by_type.Has("sliding_attention");
}

RopeConfig ReadRopeOfLayers(ConfigReader& reader, std::string_view layer_type,
                            const RopeDefaults& defaults, const ArchitectureConfig& config) {
  RopeConfig rope;
  rope.theta = defaults.theta;
  rope.rotary_dim = RotaryDim(reader, defaults.partial_rotary_factor, config);
  if (!reader.Has("rope_parameters")) {
    if (defaults.kind == RopeConfig::Kind::kProportional) SetProportional(config, rope);
    return rope;
  }
  const std::string where = absl::StrCat(reader.where(), ": rope_parameters");
  ConfigReader by_type(reader.ObjectAt("rope_parameters"), where);
  if (by_type.Has(layer_type)) {
    rope =
        ReadObject(by_type.ObjectAt(layer_type), absl::StrCat(where, ": ", std::string(layer_type)),
                   rope, reader, defaults.partial_rotary_factor, config);
  }
  reader.Fail(by_type.status());
  return rope;
}

}  // namespace modeld
