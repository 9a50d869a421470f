// Mistral: Llama whose layers may see a window only; Ministral 3: yarn, and queries that grow with
// their position.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void ReadMistral(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 8, .max_context = 131072}, config);
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 4096), config);
}

void ReadMinistral3(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.num_kv_heads = 8, .head_dim = 128, .max_context = 262144, .norm_eps = 1e-5},
              config);
  SetWindow(reader.IntOrNone("sliding_window", kContextRange, 0), config);
  if (!reader.Has("rope_parameters")) {
    reader.Refuse("rope_parameters", "absent", "is needed: it has llama_4_scaling_beta");
    return;
  }
  ConfigReader rope(reader.ObjectAt("rope_parameters"), reader.where() + ": rope_parameters");
  config.query_scale_beta = rope.NumberOr("llama_4_scaling_beta", {0, 100}, 0);
  config.query_scale_context =
      rope.IntOr("original_max_position_embeddings", kContextRange, config.max_context);
  reader.Fail(rope.status());
}

}  // namespace

const Architecture kMistral = {"mistral", "MistralForCausalLM", ReadMistral, kLlamaNames};
const Architecture kMinistral3 = {"ministral3", "Ministral3ForCausalLM", ReadMinistral3,
                                  kLlamaNames};

}  // namespace modeld
