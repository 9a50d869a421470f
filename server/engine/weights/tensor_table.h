// What a weight file says of its tensors, whatever its format.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modeld {

// Offsets count from TensorTable::data_offset.
struct StoredTensor {
  std::string dtype;  // "BF16", as safetensors names it
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
  // In elements, one for each dimension; empty when the elements lie row by row without a gap.
  std::vector<int64_t> strides = {};

  int64_t bytes() const { return end - begin; }
};

struct TensorTable {
  std::map<std::string, StoredTensor> tensors;
  int64_t data_offset = 0;  // in the file
  int64_t data_bytes = 0;   // from there to the end of the last tensor
};

// Bytes of one element; absent for a dtype that safetensors does not have.
std::optional<int64_t> ElementBytes(std::string_view dtype);

}  // namespace modeld
