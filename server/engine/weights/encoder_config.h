// What the families of encoders share: keys of config.json.
#pragma once

#include <cstdint>

#include "server/engine/weights/decoder_config.h"

namespace modeld {

// A BERT: attention both ways, layer norms after each sum and after the embedding, biases, a plain
// feed-forward network, learned positions from row `position_offset` on. The key of the norms'
// epsilon is layer_norm_eps.
void ReadEncoder(ConfigReader& reader, const DecoderDefaults& defaults, int64_t position_offset,
                 ArchitectureConfig& config);

// UNSUPPORTED_ARCHITECTURE unless `key` is `value` or absent.
void RequireFlag(ConfigReader& reader, std::string_view key, bool value);

}  // namespace modeld
