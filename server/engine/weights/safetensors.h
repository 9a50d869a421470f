// The safetensors format: 8 bytes of header length (little-endian), a JSON header, tensor data.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/status/statusor.h"
#include "server/engine/weights/tensor_table.h"

namespace modeld {

// Reads the first 8 + N bytes of a file (`head` may be longer). `file` names it in errors;
// `file_bytes` is the length of the whole file, absent when that is not known.
// INVALID_REPOSITORY, naming the tensor and both figures, when the header is cut, longer than 100
// MB, no JSON, has a name twice, or when offsets lie: beyond the file, overlapping, with holes, of
// other length than dtype and shape. The tensors fill the rest of the file without a hole.
// UNSUPPORTED_WEIGHTS for a dtype that the format does not have.
absl::StatusOr<TensorTable> ParseSafetensorsHeader(std::string_view head, std::string_view file,
                                                   std::optional<int64_t> file_bytes);

}  // namespace modeld
