// Llama and its descendants: norm, attention, norm, gated feed-forward, each added to its input.
#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "server/engine/models/blocks.h"
#include "server/engine/models/decoder.h"
#include "server/engine/models/registry.h"

namespace modeld {
namespace {

class LlamaLayer final : public DecoderLayer {
 public:
  LlamaLayer(const TensorSource& source, const ArchitectureConfig& config, int64_t layer)
      : LlamaLayer(source, config, layer, absl::StrCat("model.layers.", layer, ".")) {}

  at::Tensor Forward(const at::Tensor& hidden, const Pass& pass) const override {
    const at::Tensor attended = hidden + attention_(input_norm_(hidden), pass);
    return attended + mlp_(attention_norm_(attended));
  }

 private:
  LlamaLayer(const TensorSource& source, const ArchitectureConfig& config, int64_t layer,
             const std::string& prefix)
      : input_norm_(source, prefix + "input_layernorm", config.rms_norm_eps),
        attention_(source, prefix + "self_attn.", config, layer),
        attention_norm_(source, prefix + "post_attention_layernorm", config.rms_norm_eps),
        mlp_(source, prefix + "mlp.", config.mlp_bias) {}

  const RmsNorm input_norm_;
  const SelfAttention attention_;
  const RmsNorm attention_norm_;
  const GatedMlp mlp_;
};

}  // namespace

std::unique_ptr<CausalLm> MakeLlama(ModelParts parts, const TensorSource& source) {
  const ArchitectureConfig& config = parts.config;
  DecoderParts decoder;
  decoder.embedding = source.Get("model.embed_tokens.weight");
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    decoder.layers.push_back(std::make_unique<LlamaLayer>(source, config, layer));
  }
  decoder.final_norm = RmsNorm(source, "model.norm", config.rms_norm_eps);
  decoder.head = config.tie_word_embeddings ? decoder.embedding : source.Get("lm_head.weight");
  decoder.config = config;
  decoder.max_context = parts.max_context;
  decoder.kv = std::move(parts.kv);
  decoder.threads = std::move(parts.threads);
  return std::make_unique<Decoder>(std::move(decoder));
}

}  // namespace modeld
