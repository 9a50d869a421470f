// The devices that the parts of a loaded model are on, and the way from one to the other.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "server/core/device_map.h"
#include "server/engine/weights/architecture.h"

namespace modeld {

// What libtorch calls a device of ours: for it "cpu:0" and "cpu:1" are both the CPU. Throws
// c10::Error for a name that is none.
at::Device TorchDevice(const std::string& name);

// Told of each tensor that goes from one device to another, on the thread that moves it.
using OnMove =
    std::function<void(const std::string& from, const std::string& to, const at::Tensor& moved)>;

// Immutable.
class ModelDevices {
 public:
  // `on_move` may be empty.
  ModelDevices(DeviceMap map, OnMove on_move);

  const DeviceMap& map() const { return map_; }
  at::Device embedding() const { return TorchDevice(map_.embedding); }
  at::Device norm() const { return TorchDevice(map_.norm); }
  std::vector<at::Device> layers() const;
  // Where the weights of one part are.
  const std::string& NameFor(const TensorShape& tensor) const;

  // `x`, which is on `from`, on `to`: itself when that is the same, else a copy, also where
  // libtorch knows of one device only.
  at::Tensor Moved(const at::Tensor& x, const std::string& from, const std::string& to) const;

 private:
  const DeviceMap map_;
  const OnMove on_move_;
};

}  // namespace modeld
