// Weight files that torch.save writes (pytorch_model.bin): a zip archive of a pickle, which
// describes the tensors, and one entry for the bytes of each storage. Nothing of it is run.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "server/engine/weights/tensor_table.h"

namespace modeld {

// The tensors of a whole file; `file` names it in errors. data_offset is 0. Each tensor lies within
// its storage. INVALID_REPOSITORY and UNSUPPORTED_WEIGHTS as ReadZipDirectory and ReadTensorPickle
// say; UNSUPPORTED_WEIGHTS too for the format of torch before 1.6 and for big-endian files.
absl::StatusOr<TensorTable> ParseTorchFile(std::string_view bytes, std::string_view file);

}  // namespace modeld
