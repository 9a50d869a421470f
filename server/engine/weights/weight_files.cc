#include "server/engine/weights/weight_files.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/config_reader.h"
#include "server/engine/weights/fp8.h"

namespace modeld {
namespace {

constexpr size_t kNamesShownMax = 8;

bool IsPlainWeightPath(const std::string& path, std::string_view ending) {
  if (path.empty() || path.size() > 255 || path.front() == '/') return false;
  if (!path.ends_with(ending)) return false;
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

bool IsOfUnusedLayer(const ArchitectureConfig& config, std::string_view name) {
  for (int64_t layer = 0; layer < config.unused_layers; ++layer) {
    const std::string part = absl::StrCat("layers.", config.num_layers + layer, ".");
    if (name.find(part) != std::string_view::npos) return true;
  }
  return false;
}

// Keys and values, and what they are made by, of a layer that sees those of another one.
bool IsOfSharedKeys(const ArchitectureConfig& config, std::string_view name) {
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    if (config.layers[layer].kv_layer < 0) continue;
    const std::string prefix = absl::StrCat("layers.", layer, ".self_attn.");
    const size_t at = name.find(prefix);
    if (at == std::string_view::npos) continue;
    const std::string_view rest = name.substr(at + prefix.size());
    for (const std::string_view part : {"k_proj.", "v_proj.", "k_norm.", "v_norm."}) {
      if (rest.starts_with(part)) return true;
    }
  }
  return false;
}

bool HasPart(std::span<const std::string_view> parts, std::string_view name) {
  return std::any_of(parts.begin(), parts.end(), [&](std::string_view part) {
    return name.find(part) != std::string_view::npos;
  });
}

bool IsIgnoredByReference(const Architecture& architecture, const ArchitectureConfig& config,
                          std::string_view name) {
  // How activations would be quantized; they are not.
  if (config.fp8 && (name.ends_with(".activation_scale") || name.ends_with(".input_scale"))) {
    return true;
  }
  const Wrapper* wrapper = FindWrapper(config.wrapper);
  return name.ends_with("rotary_emb.inv_freq") || IsOfUnusedLayer(config, name) ||
         IsOfSharedKeys(config, name) ||
         ((config.tie_word_embeddings || config.makes_vectors) &&
          name.ends_with("lm_head.weight")) ||
         HasPart(architecture.ignored, name) ||
         (wrapper != nullptr && HasPart(wrapper->ignored, name));
}

// The names that norms had before PyTorch had layer norms; the reference reads them too.
void RenameOldNorms(TensorMap& found) {
  constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"LayerNorm.gamma", "LayerNorm.weight"}, {"LayerNorm.beta", "LayerNorm.bias"}};
  for (const auto& [old_ending, ending] : kNames) {
    std::vector<std::string> old_names;
    for (const auto& [name, tensor] : found) {
      if (name.ends_with(old_ending)) old_names.push_back(name);
    }
    for (const std::string& name : old_names) {
      auto node = found.extract(name);
      node.key().replace(name.size() - old_ending.size(), old_ending.size(), ending);
      found.insert(std::move(node));
    }
  }
}

// The names that `found` goes by: those of the root under which its embedding is.
std::vector<TensorShape> ExpectedTensors(const ArchitectureConfig& config, const TensorMap& found) {
  for (const NameRoot& root : RootsOf(config)) {
    std::vector<TensorShape> tensors = TensorsOf(config, root);
    if (found.contains(tensors.front().name)) return tensors;
  }
  return TensorsOf(config);
}

// The files of an index; they must be there.
absl::StatusOr<std::vector<std::string>> FilesOfIndex(std::string_view index_json,
                                                      std::string_view index_file,
                                                      const WeightListing& listing) {
  ASSIGN_OR_RETURN(const WeightIndex index, ParseWeightIndex(index_json, index_file));
  std::vector<std::string> missing;
  for (const std::string& file : index.files()) {
    if (!listing.has_file(file)) missing.push_back(file);
  }
  if (missing.empty()) return index.files();
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("%s names %d files that the repository does not have: %s",
                               index_file, missing.size(), Listed(missing)));
}

bool IsFloat(std::string_view dtype) { return dtype == "F32" || dtype == "F16" || dtype == "BF16"; }

// What is wrong with the scale of an F8_E4M3 tensor, or an empty text.
absl::StatusOr<std::string> ScaleProblem(const TensorShape& tensor, const TensorMap& found,
                                         const Fp8Config& config) {
  const std::string name = Fp8ScaleName(tensor.name);
  const auto scale = found.find(name);
  if (scale == found.end()) return absl::StrCat(name, " is missing");
  const StoredTensor& stored = scale->second.tensor;
  if (!IsFloat(stored.dtype)) {
    return Error(Reason::kUnsupportedWeights,
                 absl::StrFormat("%s: the scale \"%s\" has the dtype %s; F32, F16 and BF16 are "
                                 "supported",
                                 scale->second.file, name, stored.dtype));
  }
  if (Fp8LayoutOf(tensor.shape, stored.shape, config)) return std::string();
  return absl::StrFormat("%s is %s, which fits no %s in blocks of %d x %d", name,
                         ShapeText(stored.shape), ShapeText(tensor.shape), config.block_rows,
                         config.block_columns);
}

}  // namespace

std::vector<std::string> WeightIndex::files() const {
  std::set<std::string> names;
  for (const auto& [tensor, file] : file_of_tensor) names.insert(file);
  return {names.begin(), names.end()};
}

absl::StatusOr<WeightIndex> ParseWeightIndex(std::string_view index_json,
                                             std::string_view index_file) {
  const std::string_view ending = index_file == kTorchIndexFile ? ".bin" : ".safetensors";
  ASSIGN_OR_RETURN(const nlohmann::json json, ParseJsonObject(index_json, index_file));
  const auto map = json.find("weight_map");
  if (map == json.end() || !map->is_object() || map->empty()) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s: weight_map is missing or empty", index_file));
  }
  WeightIndex index;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string() || !IsPlainWeightPath(file.get<std::string>(), ending)) {
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("%s: tensor \"%s\" lies in %s, which is no %s file of the "
                                   "repository",
                                   index_file, tensor, file.dump(), ending));
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
  if (listing.index_json) return FilesOfIndex(*listing.index_json, kWeightIndexFile, listing);
  if (listing.has_file(kSingleTorchFile)) return std::vector<std::string>{kSingleTorchFile};
  if (listing.torch_index_json) {
    return FilesOfIndex(*listing.torch_index_json, kTorchIndexFile, listing);
  }
  if (!listing.other_formats.empty()) {
    return Error(
        Reason::kUnsupportedWeights,
        absl::StrFormat("the weights are only there as %s; %s, %s or the sharded form of "
                        "one is needed",
                        Listed(listing.other_formats), kSingleWeightFile, kSingleTorchFile));
  }
  return Error(
      Reason::kInvalidRepository,
      absl::StrFormat("the repository has no weights: neither %s nor %s, %s or %s",
                      kSingleWeightFile, kWeightIndexFile, kSingleTorchFile, kTorchIndexFile));
}

absl::Status AddTensors(const std::string& file, const TensorTable& table, TensorMap& all) {
  for (const auto& [name, tensor] : table.tensors) {
    const auto [at, is_new] = all.emplace(name, LocatedTensor{file, tensor});
    if (!is_new) {
      return Error(Reason::kInvalidRepository, absl::StrFormat("tensor \"%s\" is in %s and in %s",
                                                               name, at->second.file, file));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<TensorShape>> CheckTensors(const ArchitectureConfig& config,
                                                      TensorMap& found) {
  const Architecture* architecture = FindArchitecture(config.model_type);
  MODELD_CHECK(architecture != nullptr, "a configuration of no architecture");
  std::erase_if(found, [&](const auto& entry) {
    return IsIgnoredByReference(*architecture, config, entry.first);
  });
  RenameOldNorms(found);
  std::vector<TensorShape> tensors = ExpectedTensors(config, found);
  std::vector<std::string> missing;
  std::vector<std::string> misshapen;
  std::vector<std::string> bad_scales;
  std::set<std::string> known;
  for (const TensorShape& expected : tensors) {
    known.insert(expected.name);
    const auto at = found.find(expected.name);
    if (at == found.end()) {
      missing.push_back(expected.name);
    } else if (at->second.tensor.shape != expected.shape) {
      misshapen.push_back(absl::StrFormat("%s is %s instead of %s", expected.name,
                                          ShapeText(at->second.tensor.shape),
                                          ShapeText(expected.shape)));
    } else if (at->second.tensor.dtype == kFp8 && config.fp8) {
      known.insert(Fp8ScaleName(expected.name));
      ASSIGN_OR_RETURN(const std::string problem, ScaleProblem(expected, found, *config.fp8));
      if (!problem.empty()) bad_scales.push_back(problem);
    } else if (expected.is_bytes ? at->second.tensor.dtype != "U8"
                                 : !IsFloat(at->second.tensor.dtype)) {
      return Error(Reason::kUnsupportedWeights,
                   absl::StrFormat("%s: tensor \"%s\" has the dtype %s; F32, F16, BF16 and, where "
                                   "config.json says fp8, %s are supported",
                                   at->second.file, expected.name, at->second.tensor.dtype, kFp8));
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
  report("without a scale that fits", bad_scales);
  if (problems.empty()) return tensors;
  return Error(Reason::kInvalidRepository,
               absl::StrFormat("the weights do not match config.json: of %d tensors %s",
                               known.size(), absl::StrJoin(problems, ", ")));
}

}  // namespace modeld
