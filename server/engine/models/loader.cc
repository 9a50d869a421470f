#include "server/engine/models/loader.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/models/decoder.h"
#include "server/engine/models/encoder.h"
#include "server/engine/models/memory_plan.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/sentence_head.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/architecture.h"
#include "server/engine/weights/config.h"
#include "server/engine/weights/generation_config.h"
#include "server/engine/weights/model_parts.h"
#include "server/engine/weights/sentence_config.h"
#include "server/engine/weights/weight_set.h"

// OpenBLAS keeps threads of its own, which libtorch's setting does not reach. Absent with other
// BLAS.
extern "C" void openblas_set_num_threads(int threads) __attribute__((weak));

namespace modeld {
namespace {

void SetThreads(int threads) {
  at::set_num_threads(threads);
  if (openblas_set_num_threads != nullptr) openblas_set_num_threads(threads);
}

// Whether there is a budget for `device` and a device behind it.
absl::Status CheckDevice(const std::string& field, const std::string& device,
                         const ModelLoadOptions& options) {
  if (device.starts_with("cuda") && !at::hasCUDA()) {
    return InvalidField(
        field, absl::StrFormat("names %s, but this engine's libtorch has no CUDA device", device));
  }
  if (!options.budget_bytes.contains(device)) {
    return InvalidField(field, absl::StrFormat("names %s, for which there is no budget", device));
  }
  return absl::OkStatus();
}

// The one device of "auto" and the like, as a key of the budget: "cpu", "cuda:0".
std::string OneDevice(const ModelLoadOptions& options) {
  const std::string& name = options.spec.device_map;
  if (name == "cuda") return "cuda:0";
  if (name != "auto" && !name.empty()) return name;
  std::string chosen = "cpu";
  for (const auto& [device, bytes] : options.budget_bytes) {
    if (device.starts_with("cuda") && at::hasCUDA()) chosen = device;
  }
  return chosen;
}

// Every device in it has a budget.
absl::StatusOr<DeviceMap> ChooseDevices(const ModelLoadOptions& options,
                                        const ArchitectureConfig& config) {
  const std::map<std::string, std::string>& entries = options.spec.device_map_entries;
  if (entries.empty()) {
    const std::string device = OneDevice(options);
    RETURN_IF_ERROR(CheckDevice("device_map", device, options));
    return DeviceMap::Whole(device, config.num_layers);
  }
  ASSIGN_OR_RETURN(DeviceMap map, ReadDeviceMap(entries, ModulesOf(config), config.num_layers));
  for (const std::string& device : map.Devices()) {
    RETURN_IF_ERROR(CheckDevice("device_map_entries", device, options));
  }
  return map;
}

absl::StatusOr<at::ScalarType> ChooseDtype(const std::string& dtype, const DeviceMap& map) {
  if (dtype == "float32") return at::kFloat;
  if (dtype == "bfloat16") return at::kBFloat16;
  if (dtype != "float16") return InvalidField("dtype", absl::StrCat("is \"", dtype, "\""));
  // libtorch has no products of float16 on the CPU.
  const std::vector<std::string> devices = map.Devices();
  const bool has_cpu = std::ranges::any_of(
      devices, [](const std::string& device) { return TorchDevice(device).is_cpu(); });
  return has_cpu ? at::kFloat : at::kHalf;
}

absl::StatusOr<GenerationDefaults> DefaultsOf(const std::string& snapshot_path,
                                              const ArchitectureConfig& config) {
  const std::string path = absl::StrCat(snapshot_path, "/generation_config.json");
  std::string text;
  std::error_code ignored;  // a file that cannot be looked at is reported by the read below
  if (std::filesystem::exists(path, ignored)) {
    ASSIGN_OR_RETURN(text, ReadFile(path));
  }
  return ReadGenerationDefaults(text, config.eos_token_ids);
}

// What the small files of a snapshot say.
struct Description {
  ArchitectureConfig config;
  GenerationDefaults generation_defaults;
  SentenceConfig sentence;  // of a model that makes vectors
};

absl::StatusOr<Description> Describe(const std::string& snapshot_path) {
  ASSIGN_OR_RETURN(const std::string config_json,
                   ReadFile(absl::StrCat(snapshot_path, "/config.json")));
  Description description;
  ASSIGN_OR_RETURN(description.config, ReadArchitectureConfig(config_json));
  ASSIGN_OR_RETURN(description.generation_defaults, DefaultsOf(snapshot_path, description.config));
  const SmallFiles files = FilesBelow(snapshot_path);
  ASSIGN_OR_RETURN(const std::optional<std::string> modules, files(kModulesFile));
  if (modules) RETURN_IF_ERROR(UseForVectors(description.config));
  if (description.config.makes_vectors) {
    ASSIGN_OR_RETURN(description.sentence, ReadSentenceConfig(files, description.config));
  }
  return description;
}

// One forward, so that libraries have built their kernels before the first request.
void WarmUp(CausalLm& model) {
  const std::unique_ptr<SequenceState> state = model.NewSequence();
  for (const int64_t tokens : {8, 1}) {
    MODELD_CHECK(state->Reserve(state->length() + tokens), "a new pool has room");
    Segment segment = {.state = state.get(), .token_ids = {}};
    segment.token_ids.assign(tokens, 0);
    model.Forward({segment});
  }
}

void WarmUp(const TextEmbedder& embedder) {
  const TokenizedText text = {.token_ids = {0}};
  embedder.Embed(std::vector{&text});
}

// "cpu:0 (1000 bytes), cpu:1 (2000 bytes)".
std::string BudgetsText(const ModelLoadOptions& options) {
  return absl::StrJoin(options.budget_bytes, ", ", [](std::string* out, const auto& budget) {
    absl::StrAppend(out, budget.first, " (", budget.second, " bytes)");
  });
}

struct Placement {
  std::shared_ptr<const ModelDevices> devices;
  at::ScalarType dtype;
};

// May throw c10::Error or std::bad_alloc.
TensorSource ReadTensors(const WeightSet& weights, const ArchitectureConfig& config,
                         const Placement& place, const LoadProgress& progress) {
  std::map<std::string, at::Device> device_of_role;
  for (const TensorShape& tensor : TensorsOf(config)) {
    device_of_role.emplace(tensor.role, TorchDevice(place.devices->NameFor(tensor)));
  }
  return {weights, place.dtype, [&](const std::string& role) { return device_of_role.at(role); },
          [&](int64_t done) {
            if (progress) progress(done, weights.bytes());
          }};
}

// May throw as ReadTensors().
std::unique_ptr<CausalLm> Build(const ArchitectureConfig& config, const TensorSource& source,
                                const Placement& place, const MemoryPlan& plan,
                                const ModelLoadOptions& options) {
  ModelParts parts = {
      .config = config,
      .max_context = plan.max_context,
      .kv = std::make_shared<KvPool>(KvPool::Options{.layers = KvShapes(config),
                                                     .blocks = plan.kv_blocks,
                                                     .dtype = place.dtype,
                                                     .device = at::kCPU,
                                                     .layer_devices = place.devices->layers()}),
      .states = {},
      .threads = std::make_unique<ThreadPool>(options.threads),
      .devices = place.devices,
      .prefix_cache = options.prefix_cache};
  if (plan.state_slots > 0) {
    parts.states = std::make_shared<StatePool>(config, plan.state_slots, place.devices->layers());
  }
  auto model = std::make_unique<Decoder>(std::move(parts), source);
  WarmUp(*model);
  return model;
}

// May throw as ReadTensors().
absl::StatusOr<LoadedModel> LoadOn(const Placement& place, const Description& description,
                                   const WeightSet& weights, const ModelLoadOptions& options,
                                   const LoadProgress& progress) {
  const ArchitectureConfig& config = description.config;
  ASSIGN_OR_RETURN(
      SentenceHead head,
      SentenceHead::Load(description.sentence, options.snapshot_path, place.devices->norm()));
  ASSIGN_OR_RETURN(
      const MemoryPlan plan,
      PlanMemory(config, {.map = place.devices->map(),
                          .budget_bytes = options.budget_bytes,
                          .element_bytes = static_cast<int64_t>(c10::elementSize(place.dtype)),
                          .max_context = options.spec.max_context,
                          .other_weights_bytes = head.bytes()}));
  SetThreads(options.threads);
  const TensorSource source = ReadTensors(weights, config, place, progress);
  LoadedModel loaded;
  loaded.max_context = plan.max_context;
  if (config.makes_vectors) {
    loaded.embedder =
        std::make_unique<TextEmbedder>(Encoder(config, plan.max_context, source, place.devices),
                                       std::move(head), description.sentence);
    WarmUp(*loaded.embedder);
    const int64_t max_tokens = description.sentence.max_tokens;
    if (max_tokens > 0) loaded.max_context = std::min(loaded.max_context, max_tokens);
  } else {
    loaded.model = Build(config, source, place, plan, options);
  }
  loaded.generation_defaults = description.generation_defaults;
  for (const DevicePlan& device : plan.devices) {
    loaded.devices.push_back({.device = device.device,
                              .weights_bytes = device.weights_bytes,
                              .kv_cache_bytes = device.kv_bytes + device.state_bytes,
                              .workspace_bytes = device.workspace_bytes});
  }
  return loaded;
}

}  // namespace

absl::StatusOr<LoadedModel> LoadModel(const ModelLoadOptions& options,
                                      const LoadProgress& progress) {
  ASSIGN_OR_RETURN(const Description description, Describe(options.snapshot_path));
  ASSIGN_OR_RETURN(DeviceMap map, ChooseDevices(options, description.config));
  // Opening maps the files and checks every header; reading comes after the budget was divided.
  ASSIGN_OR_RETURN(const WeightSet weights,
                   WeightSet::Open(options.snapshot_path, description.config));
  try {
    ASSIGN_OR_RETURN(const at::ScalarType dtype, ChooseDtype(options.spec.dtype, map));
    return LoadOn({std::make_shared<ModelDevices>(std::move(map), options.on_move), dtype},
                  description, weights, options, progress);
  } catch (const c10::OutOfMemoryError& e) {
    return Error(Reason::kInsufficientDeviceMemory,
                 absl::StrFormat("out of memory within the budgets of %s: %s", BudgetsText(options),
                                 e.what_without_backtrace()));
  } catch (const c10::Error& e) {
    return Error(Reason::kInternal,
                 absl::StrFormat("libtorch cannot load the model on %s: %s", BudgetsText(options),
                                 e.what_without_backtrace()));
  }
}

std::vector<DeviceBytes> DeviceBytesNow(const LoadedModel& model) { return model.devices; }

}  // namespace modeld
