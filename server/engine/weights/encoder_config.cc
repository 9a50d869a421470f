#include "server/engine/weights/encoder_config.h"

#include <string>

#include "absl/strings/str_format.h"
#include "server/core/reason.h"

namespace modeld {

void RequireFlag(ConfigReader& reader, std::string_view key, bool value) {
  if (reader.BoolOr(key, value) == value) return;
  reader.Fail(Error(Reason::kUnsupportedArchitecture,
                    absl::StrFormat("%s: %s is not supported to be %s", reader.where(),
                                    std::string(key), value ? "false" : "true")));
}

void ReadEncoder(ConfigReader& reader, const DecoderDefaults& defaults, int64_t position_offset,
                 ArchitectureConfig& config) {
  reader.Alias("rms_norm_eps", "layer_norm_eps");
  ReadDecoder(reader, defaults, config);
  config.ropes.clear();
  config.position_embedding = true;
  config.position_offset = position_offset;
  // The file counts the rows before the first token's too.
  config.max_context -= position_offset;
  if (config.max_context < 1) {
    reader.Refuse("max_position_embeddings", absl::StrFormat("%d", config.max_context),
                  absl::StrFormat("must be above %d", position_offset));
    config.max_context = 1;
  }
  config.both_ways = true;
  config.embedding_norm = true;
  config.final_norm = false;
  config.norm = NormKind::kLayer;
  config.norm_placement = NormPlacement::kAfterSum;
  config.gated_mlp = false;
  config.qkv_bias = true;
  config.attention_output_bias = true;
  config.mlp_bias = true;
  RequireFlag(reader, "is_decoder", false);
  const std::string positions = reader.StringOr("position_embedding_type", "absolute");
  if (positions != "absolute") {
    reader.Fail(Error(Reason::kUnsupportedArchitecture,
                      absl::StrFormat("%s: position_embedding_type \"%s\" is not supported",
                                      reader.where(), positions)));
  }
}

}  // namespace modeld
