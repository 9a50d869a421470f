// Qwen2 and Qwen2.5: Llama with a bias on queries, keys and values, always.
#include "server/engine/weights/decoder_config.h"

namespace modeld {
namespace {

void Read(ConfigReader& reader, ArchitectureConfig& config) {
  ReadDecoder(reader, {.max_context = 32768}, config);
  ReadQwenWindows(reader, config);
  config.qkv_bias = true;
}

}  // namespace

const Architecture kQwen2 = {"qwen2", "Qwen2ForCausalLM", Read, kLlamaNames};

}  // namespace modeld
