// The pickle inside of a torch.save file, read as data: nothing that it names is run or imported.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace modeld {

// A tensor as the pickle describes it: a view of a storage. Numbers are checked to be non-negative
// and shape and strides to be equally long; whether they lie within the storage is not.
struct PickledTensor {
  std::string storage_key;  // the name of the storage's entry in the archive
  std::string dtype;        // "BF16", as safetensors names it
  int64_t storage_elements = 0;
  int64_t first_element = 0;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // in elements
};

// The dictionary of tensors that the pickle is. `file` names it in errors. UNSUPPORTED_WEIGHTS
// naming the opcode or the class for everything that is not tensors, dictionaries, tuples, numbers,
// strings, None or booleans; INVALID_REPOSITORY for a pickle that is cut, broken, nested, larger
// than any model's, or no dictionary of tensors.
absl::StatusOr<std::map<std::string, PickledTensor>> ReadTensorPickle(std::string_view pickle,
                                                                      std::string_view file);

}  // namespace modeld
