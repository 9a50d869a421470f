#include "server/engine/weights/torch_file.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/tensor_pickle.h"
#include "server/engine/weights/zip_directory.h"

namespace modeld {
namespace {

// Pickle protocol 2 of the number that the older format begins with.
constexpr std::string_view kLegacyMagic = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

absl::Status InvalidTensor(std::string_view file, std::string_view tensor, std::string_view what) {
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("%s: tensor \"%s\" %s", file, tensor, what));
}

// The folder that all entries lie in, with its slash: the archive's name when it was saved.
absl::StatusOr<std::string> FolderOf(const ZipDirectory& directory, std::string_view file) {
  constexpr std::string_view kPickle = "data.pkl";
  for (const auto& [name, entry] : directory) {
    if (!name.ends_with(kPickle)) continue;
    const std::string folder = name.substr(0, name.size() - kPickle.size());
    if (folder.ends_with('/') && folder.find('/') == folder.size() - 1) return folder;
  }
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("%s: the zip archive has no data.pkl of torch.save", file));
}

std::string_view BytesOf(std::string_view archive, const ZipEntry& entry) {
  return archive.substr(entry.offset, entry.bytes);
}

bool IsRowByRow(const PickledTensor& tensor) {
  int64_t stride = 1;
  for (size_t i = tensor.shape.size(); i-- > 0;) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != stride) return false;
    stride *= tensor.shape[i];
  }
  return true;
}

struct Extent {
  int64_t elements = 1;
  int64_t span = 1;  // from the first element to the end of the last one in the storage
};

// Absent when a number overflows.
std::optional<Extent> ExtentOf(const PickledTensor& tensor) {
  Extent extent;
  for (const int64_t length : tensor.shape) {
    if (__builtin_mul_overflow(extent.elements, length, &extent.elements)) return std::nullopt;
  }
  if (extent.elements == 0) return Extent{.elements = 0, .span = 0};
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    int64_t steps = 0;
    if (__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &steps) ||
        __builtin_add_overflow(extent.span, steps, &extent.span)) {
      return std::nullopt;
    }
  }
  return extent;
}

// Checks a tensor against its storage and places it in the file.
absl::StatusOr<StoredTensor> Place(const std::string& name, PickledTensor tensor,
                                   const ZipEntry& storage, std::string_view file) {
  const int64_t element_bytes = ElementBytes(tensor.dtype).value();
  // Divided, so that a huge number of elements does not overflow.
  if (storage.bytes % element_bytes != 0 ||
      storage.bytes / element_bytes != tensor.storage_elements) {
    return InvalidTensor(file, name,
                         absl::StrFormat("needs a storage of %d %s, but entry data/%s has %d bytes",
                                         tensor.storage_elements, tensor.dtype,
                                         absl::CHexEscape(tensor.storage_key), storage.bytes));
  }
  const std::optional<Extent> extent = ExtentOf(tensor);
  if (!extent || tensor.first_element > tensor.storage_elements ||
      extent->span > tensor.storage_elements - tensor.first_element) {
    return InvalidTensor(
        file, name,
        absl::StrFormat("of shape [%s] with strides [%s] from element %d is larger than its "
                        "storage of %d",
                        absl::StrJoin(tensor.shape, ", "), absl::StrJoin(tensor.strides, ", "),
                        tensor.first_element, tensor.storage_elements));
  }
  // A repeated element would make a small file as large as it likes.
  if (extent->elements > tensor.storage_elements) {
    return InvalidTensor(file, name,
                         absl::StrFormat("has %d elements, but its storage only %d",
                                         extent->elements, tensor.storage_elements));
  }
  StoredTensor stored = {.dtype = std::move(tensor.dtype), .shape = std::move(tensor.shape)};
  stored.begin = storage.offset + tensor.first_element * element_bytes;
  stored.end = stored.begin + extent->span * element_bytes;
  tensor.shape = stored.shape;
  if (extent->elements > 0 && !IsRowByRow(tensor)) stored.strides = std::move(tensor.strides);
  return stored;
}

}  // namespace

absl::StatusOr<TensorTable> ParseTorchFile(std::string_view bytes, std::string_view file) {
  if (bytes.starts_with(kLegacyMagic)) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s is in the format of torch before 1.6, which is not read; save "
                                 "it again, best as safetensors",
                                 file));
  }
  ASSIGN_OR_RETURN(const ZipDirectory directory, ReadZipDirectory(bytes, file));
  ASSIGN_OR_RETURN(const std::string folder, FolderOf(directory, file));
  const auto order = directory.find(folder + "byteorder");
  if (order != directory.end() && BytesOf(bytes, order->second) != "little") {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: its numbers are not little-endian", file));
  }
  ASSIGN_OR_RETURN(auto tensors,
                   ReadTensorPickle(BytesOf(bytes, directory.at(folder + "data.pkl")), file));
  TensorTable table;
  for (auto& [name, tensor] : tensors) {
    const auto storage = directory.find(absl::StrCat(folder, "data/", tensor.storage_key));
    if (storage == directory.end()) {
      return InvalidTensor(file, name,
                           absl::StrFormat("lies in entry data/%s, which is not there",
                                           absl::CHexEscape(tensor.storage_key)));
    }
    ASSIGN_OR_RETURN(StoredTensor stored, Place(name, std::move(tensor), storage->second, file));
    table.data_bytes = std::max(table.data_bytes, stored.end);
    table.tensors.emplace(name, std::move(stored));
  }
  return table;
}

}  // namespace modeld
