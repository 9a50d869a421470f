// All layers of a model, one after the other, each on its device.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "server/engine/models/decoder_layer.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/config.h"

namespace modeld {

// Immutable.
class LayerStack {
 public:
  // The tensors of `source` are where `devices` says.
  LayerStack(const TensorSource& source, const ArchitectureConfig& config,
             std::shared_ptr<const ModelDevices> devices);

  // hidden: [rows, hidden], on the device of the embedding as the tensors of `pass` are. Returns
  // the same on that of the last norm.
  at::Tensor Forward(at::Tensor hidden, Pass pass) const;

 private:
  const std::shared_ptr<const ModelDevices> devices_;
  std::vector<DecoderLayer> layers_;
};

}  // namespace modeld
