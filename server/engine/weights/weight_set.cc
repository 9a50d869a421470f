#include "server/engine/weights/weight_set.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr int64_t kIndexBytesMax = int64_t{128} << 20;

absl::StatusOr<std::vector<std::string>> FilesOf(const std::string& snapshot_path) {
  WeightListing listing;
  listing.has_file = [&](const std::string& name) {
    std::error_code ignored;  // an unreadable path is a file that is not there
    return std::filesystem::exists(absl::StrCat(snapshot_path, "/", name), ignored);
  };
  if (listing.has_file(kWeightIndexFile)) {
    ASSIGN_OR_RETURN(listing.index_json,
                     ReadFile(absl::StrCat(snapshot_path, "/", kWeightIndexFile), kIndexBytesMax));
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

absl::StatusOr<WeightSet> WeightSet::Open(const std::string& snapshot_path,
                                          const ArchitectureConfig& config) {
  ASSIGN_OR_RETURN(const std::vector<std::string> names, FilesOf(snapshot_path));
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> files;
  TensorMap located;
  for (const std::string& name : names) {
    ASSIGN_OR_RETURN(std::shared_ptr<const SafetensorsFile> file,
                     SafetensorsFile::Open(absl::StrCat(snapshot_path, "/", name), name));
    RETURN_IF_ERROR(AddTensors(name, file->header(), located));
    files.emplace(name, std::move(file));
  }
  RETURN_IF_ERROR(CheckTensors(config, located));
  WeightSet set;
  for (const auto& [name, place] : located) {
    const auto& file = files.at(place.file);
    const StoredTensor& stored = file->header().tensors.at(name);
    set.tensors_.emplace(name, Tensor{&stored, file->data(stored), file});
    set.bytes_ += stored.bytes();
  }
  return set;
}

}  // namespace modeld
