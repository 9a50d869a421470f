// How the budgets of devices are divided before anything is allocated.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core/device_map.h"
#include "server/engine/weights/config.h"

namespace modeld {

struct MemoryRequest {
  DeviceMap map;                                // with every layer
  std::map<std::string, int64_t> budget_bytes;  // hard; of every device of the map
  int64_t element_bytes = 0;                    // of weights, keys and values
  int64_t max_context = 0;                      // tokens; 0: as much as fits
  int64_t other_weights_bytes = 0;  // beside the configuration's, on the device of the last norm
};

// Of one device.
struct DevicePlan {
  std::string device;
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;  // upper estimate of what one pass and its logits need
  int64_t kv_bytes = 0;
  int64_t state_bytes = 0;

  int64_t total() const { return weights_bytes + workspace_bytes + kv_bytes + state_bytes; }
};

struct MemoryPlan {
  std::vector<DevicePlan> devices;  // in the order of DeviceMap::Devices()
  // A sequence takes its blocks and its slot on every device.
  int64_t kv_blocks = 0;
  int64_t state_slots = 0;  // sequences that layers other than attention have room for
  int64_t max_context = 0;  // tokens
};

// A sequence that does not get this far is of no use; shorter only when the model's own is.
inline constexpr int64_t kContextMin = 256;

// INSUFFICIENT_DEVICE_MEMORY, naming the device, when weights, workspace and one sequence of
// max_context (kContextMin when that is 0) do not fit; INVALID_FIELD when max_context is above the
// model's own.
absl::StatusOr<MemoryPlan> PlanMemory(const ArchitectureConfig& config,
                                      const MemoryRequest& request);

}  // namespace modeld
