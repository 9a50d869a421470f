// Device maps as users give them to modelctl.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace modeld {

// A map of modules to devices as transformers and accelerate write it, JSON: {"model.layers.0": 0,
// "lm_head": "cpu"}. A number is a GPU's. INVALID_ARGUMENT for anything else, naming `path`; the
// errors of reading it.
absl::StatusOr<std::map<std::string, std::string>> ReadDeviceMapFile(const std::string& path);

}  // namespace modeld
