// How a device's budget is divided before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "server/engine/weights/config.h"

namespace modeld {

struct MemoryRequest {
  std::string device;               // "cpu"; for messages
  int64_t budget_bytes = 0;         // hard
  int64_t element_bytes = 0;        // of weights, keys and values
  int64_t max_context = 0;          // tokens; 0: as much as fits
  int64_t other_weights_bytes = 0;  // beside the configuration's
};

struct MemoryPlan {
  int64_t weights_bytes = 0;
  int64_t workspace_bytes = 0;  // upper estimate of what one pass and its logits need
  int64_t kv_blocks = 0;
  int64_t kv_bytes = 0;
  int64_t state_slots = 0;  // sequences that layers other than attention have room for
  int64_t state_bytes = 0;
  int64_t max_context = 0;  // tokens
};

// A sequence that does not get this far is of no use; shorter only when the model's own is.
inline constexpr int64_t kContextMin = 256;

// INSUFFICIENT_DEVICE_MEMORY when weights, workspace and one sequence of max_context (kContextMin
// when that is 0) do not fit; INVALID_FIELD when max_context is above the model's own.
absl::StatusOr<MemoryPlan> PlanMemory(const ArchitectureConfig& config,
                                      const MemoryRequest& request);

}  // namespace modeld
