#include "server/engine/models/layer_stack.h"

#include <utility>

namespace modeld {

LayerStack::LayerStack(const TensorSource& source, const ArchitectureConfig& config,
                       std::shared_ptr<const ModelDevices> devices)
    : devices_(std::move(devices)) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    layers_.emplace_back(source, config, layer);
  }
}

at::Tensor LayerStack::Forward(at::Tensor hidden, Pass pass) const {
  const DeviceMap& map = devices_->map();
  pass.devices = devices_.get();
  const std::string* at = &map.embedding;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const std::string& next = map.layers[layer];
    if (next != *at) {
      hidden = devices_->Moved(hidden, *at, next);
      pass.MoveTo(TorchDevice(next));
      at = &next;
    }
    hidden = layers_[layer].Forward(hidden, pass);
  }
  return devices_->Moved(hidden, *at, map.norm);
}

}  // namespace modeld
