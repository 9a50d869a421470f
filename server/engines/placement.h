// The memory ledger's arithmetic: where a model goes, with how much context, and who must go for
// it. No I/O.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core/inspection.h"
#include "server/core/model.h"
#include "server/engines/engines.h"

namespace modeld {

// A device as placement sees it.
struct DeviceRoom {
  std::string name;
  std::string kind;
  int64_t total_bytes = 0;
  int64_t foreign_bytes = 0;  // by programs that are not ours
};

// An instance that is loaded, being loaded or draining.
struct PlacedModel {
  std::string model_name;
  std::map<std::string, int64_t> budget_bytes;  // device -> what it may use at most
  bool pinned = false;
  bool ready = false;        // only these can be evicted
  int64_t last_used_ns = 0;  // any clock that never goes back
};

struct PlacementRequest {
  std::string model_name;
  bool replace = false;  // its own instance may be evicted
  LoadSpec spec;
};

// Scratch of an engine beyond weights and KV cache: 64 MiB (cpu) or 768 MiB (cuda: context,
// libraries), and what the inspection says of a pass through the layers and its logits.
int64_t WorkspaceBytes(const Inspection& inspection, const std::string& kind);

// Of the whole model on one device: weights(dtype) + kv_bytes_per_token(dtype) x max_context +
// state of 16 sequences + WorkspaceBytes. float16 on a cpu counts as float32, since it computes in
// that.
int64_t RequiredBytes(const Inspection& inspection, const std::string& dtype,
                      const std::string& kind, int64_t max_context);

// spec.max_context 0 stands for the model's maximum, reduced to what is free, but not below 2,048
// tokens while evicting would help, and never below 256. Evicted are READY models that are not
// pinned, least recently used first, as few as make it fit.
//
// "auto" takes one GPU, that with the most room, also when others must be evicted from it; else
// whole layers one after the other on as few GPUs as hold them, the one with the most room first;
// else on all GPUs and the rest on the CPU; and the CPU alone where no GPU has room for a layer.
// "cuda" and "cpu" do the same with the devices of that kind. A map by modules is taken as it is,
// "cuda" and "cpu" in it being the first of their kind. Each device gets what its layers need,
// their keys and values, and a workspace; the head is behind the last layer, or with the embedding
// when it is the same matrix.
//
// INSUFFICIENT_DEVICE_MEMORY with both figures for each device, and what is pinned there;
// INVALID_FIELD for a device that is not there, for a max_context beyond the model's, and what
// ReadDeviceMap says.
absl::StatusOr<Placement> Place(const PlacementRequest& request, const Inspection& inspection,
                                const std::vector<DeviceRoom>& devices,
                                const std::vector<PlacedModel>& placed);

// Bytes of `device` that no instance may claim and no foreign program uses; may be negative.
int64_t FreeBytes(const DeviceRoom& device, const std::vector<PlacedModel>& placed);

}  // namespace modeld
