#include "server/engine/models/token_mixer.h"

#include "server/engine/models/latent_attention.h"
#include "server/engine/models/self_attention.h"
#include "server/engine/models/short_conv.h"

namespace modeld {

std::unique_ptr<TokenMixer> MakeTokenMixer(const TensorSource& source, const std::string& prefix,
                                           const ArchitectureConfig& config, int64_t layer) {
  if (config.layers[layer].mixer == Mixer::kShortConv) {
    return std::make_unique<ShortConv>(source, prefix + "conv.", config, layer);
  }
  if (config.latent.kv_rank > 0) {
    return std::make_unique<LatentAttention>(source, prefix + "self_attn.", config, layer);
  }
  return std::make_unique<SelfAttention>(source, prefix + "self_attn.", config, layer);
}

}  // namespace modeld
