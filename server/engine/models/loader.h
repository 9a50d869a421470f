// From a snapshot folder to a loaded architecture.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/model.h"
#include "server/core/sampling.h"
#include "server/engine/models/model.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/text_embedder.h"

namespace modeld {

struct ModelLoadOptions {
  std::string snapshot_path;
  LoadSpec spec;  // max_context 0: as much as the budget holds, at most the model's own
  // Hard budget in bytes for each device ("cpu", "cuda:0", or "cpu:0" and "cpu:1", which share the
  // CPU): weights, KV cache and workspace together. INSUFFICIENT_DEVICE_MEMORY when the weights and
  // one sequence of 256 tokens do not fit.
  std::map<std::string, int64_t> budget_bytes;
  int threads = 2;           // for kernels
  bool prefix_cache = true;  // keep what was computed for sequences that begin alike
  OnMove on_move = {};       // may be empty
};

// Called while weights are read, from the loading thread.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

struct LoadedModel {
  std::unique_ptr<CausalLm> model;         // null when it makes vectors:
  std::unique_ptr<TextEmbedder> embedder;  // null when it generates
  std::vector<DeviceBytes> devices;        // after warm-up
  GenerationDefaults generation_defaults;  // of generation_config.json, eos from config.json too
  int64_t max_context = 0;                 // tokens; what a text may have of them for an embedder
};

// Reads config.json and the weights, places them by the device map, warms up with one forward. An
// encoder, a decoder without its head and a repository with modules.json make vectors.
// UNSUPPORTED_ARCHITECTURE, UNSUPPORTED_WEIGHTS, INVALID_REPOSITORY (names the tensor or key and
// both figures), INSUFFICIENT_DEVICE_MEMORY, INVALID_FIELD (device_map names a device that is not
// there) or of device_map_entries (what ReadDeviceMap says, or such a device).
absl::StatusOr<LoadedModel> LoadModel(const ModelLoadOptions& options,
                                      const LoadProgress& progress);

// What each device holds now, by the allocator.
std::vector<DeviceBytes> DeviceBytesNow(const LoadedModel& model);

}  // namespace modeld
