// Phi-3, 3.5 and 4: one matrix for queries, keys and values and one for gate and up; longrope.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.max_context = 4096, .norm_eps = 1e-5}, config);
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 0), config);
  config.qkv_layout = QkvLayout::kFused;
  config.fused_gate_up = true;
}

}  // namespace

const Architecture kPhi3 = {"phi3", "Phi3ForCausalLM", Read, kLlamaNames};

}  // namespace modeld
