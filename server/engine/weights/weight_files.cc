#include "server/engine/weights/weight_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {
namespace {

constexpr size_t kNamesShownMax = 8;

bool IsPlainWeightPath(const std::string& path) {
  if (path.empty() || path.size() > 255 || path.front() == '/') return false;
  if (!path.ends_with(".safetensors")) return false;
  if (path.find('\0') != std::string::npos || path.find('\\') != std::string::npos) return false;
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return true;
}

// "a, b and 3 more".
std::string Listed(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kNamesShownMax);
  std::string text = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  if (names.size() > shown) absl::StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool IsIgnoredByReference(const ArchitectureConfig& config, std::string_view name) {
  return name.ends_with("rotary_emb.inv_freq") ||
         (config.tie_word_embeddings && name == "lm_head.weight");
}

bool IsFloat(std::string_view dtype) { return dtype == "F32" || dtype == "F16" || dtype == "BF16"; }

}  // namespace

std::vector<std::string> WeightIndex::files() const {
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of_tensor) names.insert(file);
  return {names.begin(), names.end()};
}

absl::StatusOr<WeightIndex> ParseWeightIndex(std::string_view index_json) {
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(index_json, kWeightIndexFile));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    return Error(Reason::kInvalidRepository,
                 absl::StrCat(kWeightIndexFile, ": weight_map is missing or empty"));
  }
  WeightIndex index;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !IsPlainWeightPath(file.get<std::string>())) {
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("%s: tensor \"%s\" lies in %s, which is no .safetensors file of "
                                   "the repository",
                                   kWeightIndexFile, tensor, file.dump()));
    }
    index.file_of_tensor.emplace(tensor, file.get<std::string>());
  }
  return index;
}

bool IsOtherWeightFormat(std::string_view path) {
  constexpr auto kEndings = std::to_array<std::string_view>(
      {".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".ot"});
  const std::string_view name = path.substr(path.rfind('/') + 1);
  if (name == "training_args.bin" || name == "tokenizer.bin") return false;
  return std::any_of(kEndings.begin(), kEndings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

absl::StatusOr<std::vector<std::string>> ChooseWeightFiles(const WeightListing& listing) {
  if (listing.has_file(kSingleWeightFile)) return std::vector<std::string>{kSingleWeightFile};
  if (listing.index_json) {
    ASSIGN_OR_RETURN(const WeightIndex index, ParseWeightIndex(*listing.index_json));
    std::vector<std::string> missing;
    for (const std::string& file : index.files()) {
      if (!listing.has_file(file)) missing.push_back(file);
    }
    if (!missing.empty()) {
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("%s names %d files that the repository does not have: %s",
                                   kWeightIndexFile, missing.size(), Listed(missing)));
    }
    return index.files();
  }
  if (!listing.other_formats.empty()) {
    return Error(
        Reason::kUnsupportedWeights,
        absl::StrFormat("the weights are only there as %s; %s or its sharded form is needed",
                        Listed(listing.other_formats), kSingleWeightFile));
  }
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("the repository has no weights: neither %s nor %s",
                               kSingleWeightFile, kWeightIndexFile));
}

absl::Status AddTensors(const std::string& file, const SafetensorsHeader& header, TensorMap& all) {
  for (const auto& [name, tensor] : header.tensors) {
    const auto [at, is_new] = all.emplace(name, LocatedTensor{file, tensor});
    if (!is_new) {
      return Error(Reason::kInvalidRepository, absl::StrFormat("tensor \"%s\" is in %s and in %s",
                                                               name, at->second.file, file));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTensors(const ArchitectureConfig& config, TensorMap& found) {
  std::erase_if(found,
                [&](const auto& entry) { return IsIgnoredByReference(config, entry.first); });
  const Architecture* architecture = FindArchitecture(config.model_type);
  MODELD_CHECK(architecture != nullptr, "a configuration of no architecture");
  std::vector<std::string> missing;
  std::vector<std::string> misshapen;
  std::set<std::string> known;
  for (const TensorShape& expected : architecture->tensors(config)) {
    known.insert(expected.name);
    const auto at = found.find(expected.name);
    if (at == found.end()) {
      missing.push_back(expected.name);
    } else if (at->second.tensor.shape != expected.shape) {
      misshapen.push_back(absl::StrFormat("%s is %s instead of %s", expected.name,
                                          ShapeText(at->second.tensor.shape),
                                          ShapeText(expected.shape)));
    } else if (!IsFloat(at->second.tensor.dtype)) {
      return Error(Reason::kUnsupportedWeights,
                   absl::StrFormat("%s: tensor \"%s\" has the dtype %s; F32, F16 and BF16 are "
                                   "supported",
                                   at->second.file, expected.name, at->second.tensor.dtype));
    }
  }
  std::vector<std::string> unknown;
  for (const auto& [name, located] : found) {
    if (!known.contains(name)) unknown.push_back(name);
  }
  std::vector<std::string> problems;
  const auto report = [&](std::string_view what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    problems.push_back(absl::StrFormat("%d %s (%s)", names.size(), what, Listed(names)));
  };
  report("missing", missing);
  report("unknown", unknown);
  report("of another shape", misshapen);
  if (problems.empty()) return absl::OkStatus();
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("the weights do not match config.json: of %d tensors %s",
                               known.size(), absl::StrJoin(problems, ", ")));
}

}  // namespace modeld
