// EXAONE 4: norms after the blocks; only layers with a window are turned, where there are such.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 32, .norm_eps = 1e-5}, config);
  config.norm_placement = NormPlacement::kAfter;
  config.qk_norm = QkNorm::kHead;
  const int64_t window = reader.IntOrNone("sliding_window", kContextRange, 4096);
  if (window == 0) return;
  const bool has_types =
      reader.Has("layer_types");  // else the pattern, which may be "LLLG", counts
  const int64_t full_every =
      has_types ? 1 : reader.IntOr("sliding_window_pattern", {1, 1 << 12}, 4);
  ReadWindows(reader, window, full_every, config);
  TurnWindowsOnly(config);
}

}  // namespace

const Architecture kExaone4 = {"exaone4", "Exaone4ForCausalLM", Read, kAfterNames};

}  // namespace modeld
