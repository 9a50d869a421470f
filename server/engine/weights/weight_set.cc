#include "server/engine/weights/weight_set.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/weight_files.h"

namespace modeld {
namespace {

constexpr int64_t kIndexBytesMax = int64_t{128} << 20;

// Copies the elements of a tensor with strides into their order.
std::vector<std::byte> RowByRow(const StoredTensor& tensor, const std::byte* data) {
  const int64_t element_bytes = ElementBytes(tensor.dtype).value();
  int64_t elements = 1;
  for (const int64_t length : tensor.shape) elements *= length;
  std::vector<std::byte> rows(elements * element_bytes);
  std::vector<int64_t> index(tensor.shape.size());
  int64_t from = 0;
  for (int64_t element = 0; element < elements; ++element) {
    std::copy_n(data + from * element_bytes, element_bytes, rows.data() + element * element_bytes);
    for (size_t i = index.size(); i-- > 0;) {
      from += tensor.strides[i];
      if (++index[i] < tensor.shape[i]) break;
      from -= index[i] * tensor.strides[i];
      index[i] = 0;
    }
  }
  return rows;
}

absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& snapshot_path) {
  WeightListing listing;
  listing.has_file = [&](const std::string& name) {
    std::error_code ignored;  // an unreadable path is a file that is not there
    return std::filesystem::exists(absl::StrCat(snapshot_path, "/", name), ignored);
  };
  for (const auto& [name, text] : {std::pair(kWeightIndexFile, &listing.index_json),
                                   std::pair(kTorchIndexFile, &listing.torch_index_json)}) {
    if (!listing.has_file(name)) continue;
    ASSIGN_OR_RETURN(*text, ReadFile(absl::StrCat(snapshot_path, "/", name), kIndexBytesMax));
  }
  std::error_code error;
  for (std::filesystem::directory_iterator at(snapshot_path, error), end; !error && at != end;
       at.increment(error)) {
    const std::string name = at->path().filename().string();
    if (IsOtherWeightFormat(name)) listing.other_formats.push_back(name);
  }
  if (error) {
    return Error(Reason::kInvalidRepository,
                 absl::StrCat("cannot list ", snapshot_path, ": ", error.message()));
  }
  return ChooseWeightFiles(listing);
}

}  // namespace

WeightSet::Tensor WeightSet::TensorOf(std::shared_ptr<const WeightFile> file,
                                      const StoredTensor& stored) {
  const std::byte* data = file->data(stored);
  if (stored.strides.empty()) {
    return {std::make_shared<StoredTensor>(stored), data, std::move(file)};
  }
  auto buffer = std::make_shared<std::vector<std::byte>>(RowByRow(stored, data));
  StoredTensor dense = {.dtype = stored.dtype, .shape = stored.shape};
  dense.end = std::ssize(*buffer);
  const std::byte* copy = buffer->data();
  return {std::make_shared<StoredTensor>(std::move(dense)), copy, std::move(buffer)};
}

absl::StatusOr<WeightSet> WeightSet::Open(const std::string& snapshot_path,
                                          const ArchitectureConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesOf(snapshot_path));
  std::map<std::string, std::shared_ptr<const WeightFile>> files;
  TensorMap located;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::shared_ptr<const WeightFile> file,
                     WeightFile::Open(absl::StrCat(snapshot_path, "/", name), name));
    RETURN_IF_ERROR(AddTensors(name, file->table(), located));
    files.emplace(name, std::move(file));
  }
  ASSIGN_OR_RETURN(const std::vector<TensorShape> tensors, CheckTensors(config, located));
  WeightSet set;
  const auto open_tensor = [&](const LocatedTensor& place) {
    return TensorOf(files.at(place.file), place.tensor);
  };
  for (const TensorShape& expected : tensors) {
    Tensor tensor = open_tensor(located.at(expected.name));
    if (tensor.stored->dtype == kFp8) {
      Tensor scale = open_tensor(located.at(Fp8ScaleName(expected.name)));
      const auto layout = Fp8LayoutOf(tensor.stored->shape, scale.stored->shape, *config.fp8);
      MODELD_CHECK(layout.has_value(), "a scale that CheckTensors lets through fits");
      tensor.scale = std::make_shared<Fp8Scale>(
          Fp8Scale{*layout, scale.stored->dtype, scale.data, std::move(scale.file)});
    }
    set.bytes_ += tensor.stored->bytes();
    set.tensors_.emplace(expected.role, std::move(tensor));
  }
  return set;
}

}  // namespace modeld
