// rope_theta, rope_scaling and rope_parameters of config.json.
#pragma once

#include "server/engine/weights/config.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {

struct RopeDefaults {
  double theta = 10000;
  double partial_rotary_factor = 1;
  RopeConfig::Kind kind = RopeConfig::Kind::kDefault;  // of ReadRopeOfLayers: or kProportional
};

// The one rope of all layers. Needs head_dim and max_context of `config`.
RopeConfig ReadRope(ConfigReader& reader, const RopeDefaults& defaults,
                    const ArchitectureConfig& config);

// Whether rope_parameters tells kinds of layers apart.
bool HasRopeByLayers(ConfigReader& reader);

// What rope_parameters says for one kind of layer ("sliding_attention"); the defaults when it does
// not name that kind.
RopeConfig ReadRopeOfLayers(ConfigReader& reader, std::string_view layer_type,
                            const RopeDefaults& defaults, const ArchitectureConfig& config);

}  // namespace modeld
