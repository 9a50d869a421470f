#include "server/engine/weights/inspect.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/config.h"
#include "server/engine/weights/model_parts.h"
#include "server/engine/weights/safetensors.h"
#include "server/engine/weights/sentence_config.h"
#include "server/engine/weights/weight_files.h"
#include "server/engine/weights/work_memory.h"

namespace modeld {
namespace {

struct DtypeBytes {
  const char* name;
  int64_t element_bytes;
};
constexpr DtypeBytes kDtypes[] = {{"bfloat16", 2}, {"float16", 2}, {"float32", 4}};

absl::Status CheckRemoteCode(const ConfigHeader& header, bool trust_remote_code) {
  if (!header.has_remote_code || FindArchitecture(header.model_type) != nullptr ||
      FindWrapper(header.model_type) != nullptr) {
    return absl::OkStatus();
  }
  const std::string file =
      header.remote_code_file.empty() ? "Python files of its own" : header.remote_code_file;
  if (!trust_remote_code) {
    return Error(Reason::kRemoteCodeNotTrusted,
                 absl::StrFormat("model type \"%s\" needs %s of the repository, and "
                                 "trust_remote_code is not set",
                                 header.model_type, file));
  }
  return Error(Reason::kUnsupportedArchitecture,
               absl::StrFormat("model type \"%s\" is implemented by %s of the repository; there is "
                               "no native implementation of it",
                               header.model_type, file));
}

void FillBytes(const ArchitectureConfig& config, const DtypeBytes& dtype, Inspection& inspection) {
  std::vector<int64_t>& layers = inspection.layer_bytes[dtype.name];
  layers.resize(config.num_layers);
  int64_t of_part[4] = {};  // by ModelPart
  for (const TensorShape& tensor : TensorsOf(config)) {
    const int64_t bytes = tensor.elements() * dtype.element_bytes;
    of_part[static_cast<size_t>(PartOf(tensor))] += bytes;
    if (tensor.layer >= 0) layers[tensor.layer] += bytes;
    inspection.weights_bytes[dtype.name] += bytes;
  }
  const auto of = [&](ModelPart part) { return of_part[static_cast<size_t>(part)]; };
  inspection.embedding_bytes[dtype.name] = of(ModelPart::kEmbedding);
  inspection.norm_bytes[dtype.name] = of(ModelPart::kNorm);
  const bool is_copied = config.tie_word_embeddings && !config.makes_vectors;
  inspection.head_bytes[dtype.name] =
      of(ModelPart::kHead) +
      (is_copied ? config.vocab_size * config.hidden_size * dtype.element_bytes : 0);
  if (config.makes_vectors) {
    inspection.kv_bytes_per_token[dtype.name] = RowBytes(config);
    return;
  }
  inspection.kv_bytes_per_token[dtype.name] = KvBytesPerToken(config, dtype.element_bytes);
  for (const KvShape& layer : KvShapes(config)) {
    inspection.layer_kv_bytes_per_token[dtype.name].push_back(
        layer.heads * (layer.key_dim + layer.value_dim) * dtype.element_bytes);
  }
}

void FillSizes(const ArchitectureConfig& config, Inspection& inspection) {
  inspection.max_context = config.max_context;
  inspection.vocab_size = config.vocab_size;
  inspection.num_layers = config.num_layers;
  inspection.hidden_size = config.hidden_size;
  inspection.state_bytes_per_sequence = StateBytesPerSequence(config);
  inspection.layer_state_bytes = LayerStateBytes(config);
  inspection.pass_bytes = PassBytes(config);
  // A text goes through the layers whole, and so does one that is shorter than a pass.
  if (config.makes_vectors) inspection.pass_bytes += kPassTokens * RowBytes(config);
  inspection.logits_bytes = LogitsBytes(config);
  for (const DtypeBytes& dtype : kDtypes) FillBytes(config, dtype, inspection);
}

// Whether the repository is for vectors, and whether we can make them as it says.
absl::Status CheckModules(const InspectedRepository& repository, ArchitectureConfig& config) {
  if (repository.files.contains(kModulesFile) || repository.texts.contains(kModulesFile)) {
    RETURN_IF_ERROR(UseForVectors(config));
  }
  // Without the text nothing can be said of the modules.
  if (!repository.texts.contains(kModulesFile)) return absl::OkStatus();
  const SmallFiles files =
      [&](const std::string& path) -> absl::StatusOr<std::optional<std::string>> {
    const auto text = repository.texts.find(path);
    if (text == repository.texts.end()) return std::nullopt;
    return text->second;
  };
  return ReadSentenceConfig(files, config).status();
}

absl::StatusOr<std::vector<std::string>> WeightFilesOf(const InspectedRepository& repository) {
  if (repository.files.empty()) {
    // No listing: go by what was sent.
    if (repository.index_json) {
      ASSIGN_OR_RETURN(const WeightIndex index,
                       ParseWeightIndex(*repository.index_json, kWeightIndexFile));
      return index.files();
    }
    std::vector<std::string> names;
    for (const auto& [name, head] : repository.headers) names.push_back(name);
    return names;
  }
  WeightListing listing;
  listing.has_file = [&](const std::string& name) { return repository.files.contains(name); };
  listing.index_json = repository.index_json;
  std::vector<std::string> shards;
  std::vector<std::string> torch_shards;
  for (const auto& [name, bytes] : repository.files) {
    if (IsOtherWeightFormat(name)) listing.other_formats.push_back(name);
    if (name.starts_with("model-") && name.ends_with(".safetensors")) shards.push_back(name);
    if (name.starts_with("pytorch_model-") && name.ends_with(".bin")) torch_shards.push_back(name);
  }
  listing.torch_index_json = repository.torch_index_json;
  if (repository.index_json || listing.has_file(kSingleWeightFile)) {
    return ChooseWeightFiles(listing);
  }
  // Without the text of an index the files' names must do.
  if (listing.has_file(kWeightIndexFile)) return shards;
  const bool has_torch_index = listing.has_file(kTorchIndexFile) && !repository.torch_index_json;
  if (has_torch_index && !listing.has_file(kSingleTorchFile)) return torch_shards;
  return ChooseWeightFiles(listing);
}

// Whether all names are there that the model needs, and no others, by the index of files without
// headers. Shapes are believed.
absl::Status CheckTorchIndex(const InspectedRepository& repository,
                             const ArchitectureConfig& config) {
  if (!repository.torch_index_json || config.fp8) return absl::OkStatus();
  ASSIGN_OR_RETURN(const WeightIndex index,
                   ParseWeightIndex(*repository.torch_index_json, kTorchIndexFile));
  TensorMap named;
  for (const auto& [name, file] : index.file_of_tensor) {
    named.emplace(name, LocatedTensor{file, {.dtype = "F32", .shape = {}}});
  }
  for (const NameRoot& root : RootsOf(config)) {
    for (const TensorShape& tensor : TensorsOf(config, root)) {
      const auto found = named.find(tensor.name);
      if (found == named.end()) continue;
      found->second.tensor.shape = tensor.shape;
      if (tensor.is_bytes) found->second.tensor.dtype = "U8";
    }
  }
  return CheckTensors(config, named).status();
}

// Of pytorch_model.bin, whose tensors are described within the archive.
absl::Status CheckTorchFiles(const InspectedRepository& repository,
                             const ArchitectureConfig& config, Inspection& inspection) {
  if (inspection.weight_files.size() > 1) RETURN_IF_ERROR(CheckTorchIndex(repository, config));
  for (const TensorShape& tensor : TensorsOf(config)) inspection.parameters += tensor.elements();
  return absl::OkStatus();
}

bool IsTorchFile(const std::string& name) { return name.ends_with(".bin"); }

// Nothing to say unless the headers of all files were sent.
absl::Status CheckHeaders(const InspectedRepository& repository, const ArchitectureConfig& config,
                          Inspection& inspection) {
  TensorMap located;
  for (const std::string& name : inspection.weight_files) {
    const auto head = repository.headers.find(name);
    if (head == repository.headers.end()) return absl::OkStatus();
    const auto listed = repository.files.find(name);
    std::optional<int64_t> bytes;
    if (listed != repository.files.end() && listed->second >= 0) bytes = listed->second;
    ASSIGN_OR_RETURN(const TensorTable header, ParseSafetensorsHeader(head->second, name, bytes));
    RETURN_IF_ERROR(AddTensors(name, header, located));
  }
  if (inspection.weight_files.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<TensorShape> tensors, CheckTensors(config, located));
  for (const TensorShape& tensor : tensors) {
    inspection.parameters += tensor.elements();
  }
  for (const auto& [name, place] : located) inspection.weights_file_bytes += place.tensor.bytes();
  return absl::OkStatus();
}

absl::Status InspectInto(const InspectedRepository& repository, Inspection& inspection) {
  ASSIGN_OR_RETURN(const ConfigHeader header, ReadConfigHeader(repository.config_json));
  inspection.model_type = header.model_type;
  inspection.architecture = header.architecture;
  inspection.has_remote_code = header.has_remote_code;
  RETURN_IF_ERROR(CheckRemoteCode(header, repository.trust_remote_code));
  ASSIGN_OR_RETURN(ArchitectureConfig config, ReadArchitectureConfig(repository.config_json));
  RETURN_IF_ERROR(CheckModules(repository, config));
  inspection.makes_vectors = config.makes_vectors;
  FillSizes(config, inspection);
  inspection.modules = ModulesOf(config);
  ASSIGN_OR_RETURN(inspection.weight_files, WeightFilesOf(repository));
  if (std::ranges::any_of(inspection.weight_files, IsTorchFile)) {
    return CheckTorchFiles(repository, config, inspection);
  }
  return CheckHeaders(repository, config, inspection);
}

}  // namespace

Inspection Inspect(const InspectedRepository& repository) {
  Inspection inspection;
  const absl::Status status = InspectInto(repository, inspection);
  inspection.supported = status.ok();
  if (!status.ok()) {
    inspection.reason = ReasonOf(status);
    inspection.message = std::string(status.message());
  }
  return inspection;
}

}  // namespace modeld
