#include "server/engine/models/token_mixer.h"

#include <ATen/ATen.h>

#include "server/engine/models/delta_net.h"
#include "server/engine/models/latent_attention.h"
#include "server/engine/models/mamba.h"
#include "server/engine/models/self_attention.h"
#include "server/engine/models/short_conv.h"

namespace modeld {

std::unique_ptr<TokenMixer> MakeTokenMixer(const TensorSource& source, const std::string& prefix,
                                           const ArchitectureConfig& config, int64_t layer) {
  switch (config.layers[layer].mixer) {
    case Mixer::kAttention:
      if (config.latent.kv_rank > 0) {
        return std::make_unique<LatentAttention>(source, prefix + "self_attn.", config, layer);
      }
      return std::make_unique<SelfAttention>(source, prefix + "self_attn.", config, layer);
    case Mixer::kShortConv:
      return std::make_unique<ShortConv>(source, prefix + "conv.", config, layer);
    case Mixer::kDeltaNet:
      return std::make_unique<DeltaNet>(source, prefix + "linear_attn.", config, layer);
    case Mixer::kMamba:
      return std::make_unique<Mamba>(source, prefix + "mamba.", config, layer);
  }
  TORCH_CHECK(false, "a mixer without a block");
}

}  // namespace modeld
