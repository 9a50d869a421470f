// What a model needs of each device when it is divided, and how it is divided over several.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/core/device_map.h"
#include "server/core/inspection.h"

namespace modeld {

// Bytes: fixed + for_token x context.
struct DeviceNeed {
  int64_t fixed = 0;
  int64_t for_token = 0;

  int64_t At(int64_t context) const { return fixed + for_token * context; }
};
using DeviceNeeds = std::map<std::string, DeviceNeed>;  // by device

// A device with the memory that a model may have of it.
struct SplitDevice {
  std::string name;
  std::string kind;  // "cpu", "cuda"
  int64_t free_bytes = 0;
};

// The dtype in which devices of these kinds compute: no cpu does in float16.
std::string EffectiveDtype(const std::string& dtype, const std::vector<SplitDevice>& devices);

// What an engine takes of a device whatever it runs there.
int64_t EngineBytes(const std::string& kind);

// Of a model that lies as `map` says; `devices` has all that the map names.
DeviceNeeds NeedsOf(const Inspection& inspection, const std::string& dtype, const DeviceMap& map,
                    const std::vector<SplitDevice>& devices);

// The most tokens, up to `wanted`, that fit into what is free; nothing when not even 0 do.
std::optional<int64_t> ContextWithin(const DeviceNeeds& needs,
                                     const std::vector<SplitDevice>& devices, int64_t wanted);

// Fills one device after the other with whole layers, so that what is free of each holds them with
// `context` tokens; devices that cannot hold the next layer are passed over. Nothing when they do
// not last, and for a model without layers.
std::optional<DeviceMap> SplitLayers(const Inspection& inspection, const std::string& dtype,
                                     const std::vector<SplitDevice>& devices, int64_t context);

}  // namespace modeld
