#include "client/device_map_file.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "server/base/file.h"
#include "server/base/status.h"

namespace modeld {

absl::StatusOr<std::map<std::string, std::string>> ReadDeviceMapFile(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no JSON object of modules and devices"));
  }
  std::map<std::string, std::string> entries;
  for (const auto& [module, device] : json.items()) {
    if (device.is_number_unsigned()) {
      entries[module] = absl::StrCat("cuda:", device.get<uint64_t>());
    } else if (device.is_string()) {
      entries[module] = device.get<std::string>();
    } else {
      return absl::InvalidArgumentError(absl::StrCat(path, ": the device of \"", module, "\" is ",
                                                     device.dump(),
                                                     ", neither a name nor the number of a GPU"));
    }
  }
  return entries;
}

}  // namespace modeld
