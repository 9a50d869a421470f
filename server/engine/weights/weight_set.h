// All weights of a snapshot folder, mapped and checked against its configuration.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/weights/config.h"
#include "server/engine/weights/fp8.h"
#include "server/engine/weights/tensor_table.h"
#include "server/engine/weights/weight_file.h"

namespace modeld {

// Read-only and thread-safe. Bytes stay mapped for as long as the file they are in is held.
class WeightSet {
 public:
  struct Tensor {
    std::shared_ptr<const StoredTensor> stored;  // row by row
    const std::byte* data;
    std::shared_ptr<const void> file;                 // or buffer, which keeps `data` alive
    std::shared_ptr<const Fp8Scale> scale = nullptr;  // of an F8_E4M3 tensor
  };

  // One tensor of a file; a copy of it when its elements do not lie row by row.
  static Tensor TensorOf(std::shared_ptr<const WeightFile> file, const StoredTensor& stored);

  // Opens the files that ChooseWeightFiles names. Every tensor that `config` needs is there in the
  // right shape afterwards, and none besides. Errors of weight_files.h and weight_file.h.
  static absl::StatusOr<WeightSet> Open(const std::string& snapshot_path,
                                        const ArchitectureConfig& config);

  // By role, see architecture.h.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  int64_t bytes() const { return bytes_; }  // as stored

 private:
  std::map<std::string, Tensor> tensors_;
  int64_t bytes_ = 0;
};

}  // namespace modeld
