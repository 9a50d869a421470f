// Which device each part of a model lies on, and how maps by the names of modules are read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace modeld {

// The modules of a model, as its repository calls them. In a map they go by their usual names too:
// "model.embed_tokens", "model.layers.0", "model.norm" and "lm_head".
struct ModuleNames {
  std::vector<std::string> embedding;  // with all that every token gets before the first layer
  std::string layer;                   // of the first layer without its index: "model.layers."
  std::vector<std::string> norm;       // the last one; empty: there is none
  std::vector<std::string> head;       // empty: there is none
  bool tied_head = false;              // it is the embedding's matrix
};

// A device for each part. Layers are never divided.
struct DeviceMap {
  std::string embedding;
  std::vector<std::string> layers;
  std::string norm;
  std::string head;

  // Everything on one.
  static DeviceMap Whole(const std::string& device, int64_t num_layers);

  // Each once, in the order in which a token meets them.
  std::vector<std::string> Devices() const;
  // What ReadDeviceMap makes the same map of again.
  std::map<std::string, std::string> ToEntries() const;

  bool operator==(const DeviceMap&) const = default;
};

// Of a map as transformers writes it: names of modules -> devices. "model" stands for all that is
// below it and "" for everything; the longest name counts. Names of modules that the model does not
// have are of no matter. A tied head that the map leaves out is where the embedding is.
// INVALID_FIELD (device_map_entries) with the modules that have no device, or naming an entry that
// would divide a part.
absl::StatusOr<DeviceMap> ReadDeviceMap(const std::map<std::string, std::string>& entries,
                                        const ModuleNames& modules, int64_t num_layers);

// Whether `device` is "cpu", "cuda", "cpu:N" or "cuda:N".
bool IsDevice(std::string_view device);

}  // namespace modeld
