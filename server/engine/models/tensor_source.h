// Weights as tensors: mapped where the file has the dtype that is wanted, converted else.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>

#include "server/engine/weights/weight_set.h"

namespace modeld {

// The stored tensor over the mapped bytes, in the dtype of the file; holds the file.
at::Tensor MappedTensor(const WeightSet::Tensor& tensor);

// A tensor on the CPU in the dtype of the file shares the file's pages: nothing is copied, and the
// kernel may drop and read them again. Any other tensor exists once, in `dtype` on its device;
// bytes stay bytes.
class TensorSource {
 public:
  // Called after each piece with the bytes of the files that were read until then.
  using Progress = std::function<void(int64_t bytes_done)>;

  // The device of a tensor, by its role.
  using DeviceOf = std::function<at::Device(const std::string& role)>;

  // Reads every byte of `weights`. Throws c10::Error when memory does not last.
  TensorSource(const WeightSet& weights, at::ScalarType dtype, const DeviceOf& device_of,
               const Progress& progress);
  // All to one device.
  TensorSource(const WeightSet& weights, at::ScalarType dtype, at::Device device,
               const Progress& progress)
      : TensorSource(weights, dtype, [device](const std::string&) { return device; }, progress) {}

  // A tensor that WeightSet has checked to be there.
  at::Tensor Get(const std::string& name) const;

 private:
  std::map<std::string, at::Tensor> tensors_;
};

}  // namespace modeld
