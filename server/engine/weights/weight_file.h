// One file of weights, whatever its format.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "server/engine/weights/mapped_file.h"
#include "server/engine/weights/tensor_table.h"

namespace modeld {

// Mapped for as long as this lives. Thread-safe; see MappedFile for what ends the process.
class WeightFile {
 public:
  // Reads a file whose name ends in .bin as torch.save's, any other as safetensors. `name` names it
  // in errors, which are those of MappedFile, ParseTorchFile and ParseSafetensorsHeader.
  static absl::StatusOr<std::unique_ptr<WeightFile>> Open(const std::string& path,
                                                          const std::string& name);

  const TensorTable& table() const { return table_; }
  // First byte of a tensor of table(). Its alignment is whatever the file has.
  const std::byte* data(const StoredTensor& tensor) const;

 private:
  WeightFile(std::unique_ptr<MappedFile> file, TensorTable table)
      : file_(std::move(file)), table_(std::move(table)) {}

  const std::unique_ptr<MappedFile> file_;
  const TensorTable table_;
};

}  // namespace modeld
