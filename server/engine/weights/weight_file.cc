#include "server/engine/weights/weight_file.h"

#include <cstdint>
#include <string_view>

#include "server/base/status.h"
#include "server/engine/weights/safetensors.h"
#include "server/engine/weights/torch_file.h"

namespace modeld {

absl::StatusOr<std::unique_ptr<WeightFile>> WeightFile::Open(const std::string& path,
                                                             const std::string& name) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path, name));
  const std::string_view bytes = file->bytes();
  ASSIGN_OR_RETURN(TensorTable table, name.ends_with(".bin")
                                          ? ParseTorchFile(bytes, name)
                                          : ParseSafetensorsHeader(bytes, name, std::ssize(bytes)));
  return std::unique_ptr<WeightFile>(new WeightFile(std::move(file), std::move(table)));
}

const std::byte* WeightFile::data(const StoredTensor& tensor) const {
  return reinterpret_cast<const std::byte*>(file_->bytes().data()) + table_.data_offset +
         tensor.begin;
}

}  // namespace modeld
