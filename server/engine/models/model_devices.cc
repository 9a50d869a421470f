#include "server/engine/models/model_devices.h"

#include <ATen/ATen.h>

#include <utility>

#include "server/engine/weights/model_parts.h"

namespace modeld {

at::Device TorchDevice(const std::string& name) {
  return name.starts_with("cpu") ? at::Device(at::kCPU) : at::Device(name);
}

ModelDevices::ModelDevices(DeviceMap map, OnMove on_move)
    : map_(std::move(map)), on_move_(std::move(on_move)) {}

std::vector<at::Device> ModelDevices::layers() const {
  std::vector<at::Device> devices;
  for (const std::string& name : map_.layers) devices.push_back(TorchDevice(name));
  return devices;
}

const std::string& ModelDevices::NameFor(const TensorShape& tensor) const {
  switch (PartOf(tensor)) {
    case ModelPart::kLayer:
      return map_.layers[tensor.layer];
    case ModelPart::kNorm:
      return map_.norm;
    case ModelPart::kHead:
      return map_.head;
    case ModelPart::kEmbedding:
      break;
  }
  return map_.embedding;
}

at::Tensor ModelDevices::Moved(const at::Tensor& x, const std::string& from,
                               const std::string& to) const {
  if (from == to || !x.defined()) return x;
  const at::Tensor moved =
      x.to(TorchDevice(to), x.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  if (on_move_) on_move_(from, to, moved);
  return moved;
}

}  // namespace modeld
