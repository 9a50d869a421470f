// The safetensors format: 8 bytes of header length (little-endian), a JSON header, tensor data.
// https://huggingface.co/docs/safetensors
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// A tensor as the header describes it. Offsets count from the first byte after the header.
struct StoredTensor {
  std::string dtype;  // "BF16"
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;

  int64_t bytes() const { return end - begin; }
};

struct SafetensorsHeader {
  std::map<std::string, StoredTensor> tensors;
  int64_t data_offset = 0;  // in the file: 8 + header length
  int64_t data_bytes = 0;   // all tensors together; they fill the rest of the file without a hole
};

// Reads the first 8 + N bytes of a file (`head` may be longer). `file` names it in errors;
// `file_bytes` is the length of the whole file, absent when that is not known.
// INVALID_REPOSITORY, naming the tensor and both figures, when the header is cut, longer than 100
// MB, no JSON, has a name twice, or when offsets lie: beyond the file, overlapping, with holes, of
// other length than dtype and shape. UNSUPPORTED_WEIGHTS for a dtype that the format does not have.
absl::StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view head,
                                                         std::string_view file,
                                                         std::optional<int64_t> file_bytes);

// A file mapped into memory, read-only, for as long as this lives.
// Thread-safe. A file that is cut short while it is mapped ends the process with SIGBUS.
class SafetensorsFile {
 public:
  // `name` names the file in errors. Errors as ParseSafetensorsHeader; NOT_FOUND and others of
  // base/file when it cannot be read.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path,
                                                               const std::string& name);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const SafetensorsHeader& header() const { return header_; }
  // First byte of a tensor of header(). Its alignment is whatever the file has.
  const std::byte* data(const StoredTensor& tensor) const;

 private:
  SafetensorsFile(void* map, size_t bytes) : map_(map), bytes_(bytes) {}

  void* const map_;
  const size_t bytes_;
  SafetensorsHeader header_;
};

}  // namespace modeld
