// Which files of a repository hold the weights, and whether the tensors in them are those that the
// architecture needs.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/tensor_table.h"

namespace modeld {

inline constexpr char kSingleWeightFile[] = "model.safetensors";
inline constexpr char kWeightIndexFile[] = "model.safetensors.index.json";
inline constexpr char kSingleTorchFile[] = "pytorch_model.bin";
inline constexpr char kTorchIndexFile[] = "pytorch_model.bin.index.json";

// An index: which file has which tensor.
struct WeightIndex {
  std::map<std::string, std::string> file_of_tensor;

  std::vector<std::string> files() const;  // sorted, each once
};

// `index_file` is kWeightIndexFile or kTorchIndexFile. INVALID_REPOSITORY when the text is no
// index, is empty, or names a file that is no plain path below the repository that ends in
// .safetensors, or .bin for kTorchIndexFile.
absl::StatusOr<WeightIndex> ParseWeightIndex(std::string_view index_json,
                                             std::string_view index_file);

// The weight files that loading reads, in transformers' order: model.safetensors, those of its
// index, pytorch_model.bin, those of its index. `has_file` says whether the repository has a file;
// the two texts are those of the indexes where they are at hand. `other_formats` are weight files
// that we do not read (GGUF, ...). UNSUPPORTED_WEIGHTS when there are only such, INVALID_REPOSITORY
// when there are none or the index names files that are missing.
struct WeightListing {
  std::function<bool(const std::string&)> has_file;
  std::optional<std::string> index_json;
  std::optional<std::string> torch_index_json;
  std::vector<std::string> other_formats;
};
absl::StatusOr<std::vector<std::string>> ChooseWeightFiles(const WeightListing& listing);

// Whether `path` is a weight file of another format than safetensors.
bool IsOtherWeightFormat(std::string_view path);

// A tensor and the file it is in.
struct LocatedTensor {
  std::string file;
  StoredTensor tensor;
};
using TensorMap = std::map<std::string, LocatedTensor>;

// Adds the tensors of one file; INVALID_REPOSITORY when another file has one of that name.
absl::Status AddTensors(const std::string& file, const TensorTable& table, TensorMap& all);

// INVALID_REPOSITORY listing the tensors that are missing, unknown or of another shape, with both
// shapes; UNSUPPORTED_WEIGHTS for dtypes other than F32, F16 and BF16, or F8_E4M3 with its scale
// (NAME_scale_inv) where config.json says so. Tensors that the reference ignores too (stored rope
// frequencies, a tied head) are taken out of `found`, and norms named gamma and beta are renamed
// there. Returns the tensors that the architecture
// needs under the names that `found` has.
absl::StatusOr<std::vector<TensorShape>> CheckTensors(const ArchitectureConfig& config,
                                                      TensorMap& found);

}  // namespace modeld
