#include "server/core/model.h"

#include <algorithm>
#include <array>

#include "server/core/device_map.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

bool IsAlnum(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

}  // namespace

absl::Status ValidateModelName(std::string_view name) {
  const auto bad = [](std::string_view why) { return InvalidField("model_name", why); };
  if (name.empty()) return bad("is empty");
  if (name.size() > 96) return bad("is longer than 96 characters");
  const auto legal = [](char c) { return IsAlnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!IsAlnum(name.front()) || !std::ranges::all_of(name, legal)) {
    return bad("must be A-Z a-z 0-9 . _ - and begin with a letter or digit");
  }
  return absl::OkStatus();
}

absl::Status ValidateTokenCredential(std::string_view name) {
  const auto bad = [](std::string_view why) { return InvalidField("token_credential", why); };
  if (name.size() > 255) return bad("is longer than 255 characters");
  const auto legal = [](char c) { return IsAlnum(c) || c == '.' || c == '_' || c == '-'; };
  if (!std::ranges::all_of(name, legal)) {
    return bad("must be the name of a credential: A-Z a-z 0-9 . _ - only");
  }
  if (!name.empty() && name.find_first_not_of('.') == std::string_view::npos) {
    return bad("is dots alone");
  }
  return absl::OkStatus();
}

std::string_view ModelStateName(ModelState state) {
  switch (state) {
    case ModelState::kUnspecified:
      break;
    case ModelState::kRegistered:
      return "registered";
    case ModelState::kDownloading:
      return "downloading";
    case ModelState::kDownloaded:
      return "downloaded";
    case ModelState::kLoading:
      return "loading";
    case ModelState::kReady:
      return "ready";
    case ModelState::kFailed:
      return "failed";
  }
  return "unspecified";
}

ModelState ComputeModelState(const ModelFacts& facts) {
  if (facts.instance_ready) return ModelState::kReady;
  if (facts.instance_loading) return ModelState::kLoading;
  if (facts.download_active) return ModelState::kDownloading;
  if (facts.last_operation_failed) return ModelState::kFailed;
  if (facts.copy_complete) return ModelState::kDownloaded;
  return ModelState::kRegistered;
}

absl::Status ValidateLoadSpec(const LoadSpec& spec) {
  static constexpr std::array kDtypes = {"bfloat16", "float16", "float32"};
  if (std::ranges::find(kDtypes, spec.dtype) == kDtypes.end()) {
    return InvalidField(
        "dtype", "\"" + spec.dtype.substr(0, 100) + "\" is none of bfloat16, float16, float32");
  }
  if (spec.device_map_entries.empty()) {
    if (spec.device_map != "auto" && !IsDevice(spec.device_map)) {
      return InvalidField("device_map", "\"" + spec.device_map.substr(0, 100) +
                                            "\" is none of auto, cpu, cuda, cpu:N, cuda:N");
    }
  } else if (!spec.device_map.empty()) {
    return InvalidField("device_map", "is set together with device_map_entries");
  }
  for (const auto& [module, device] : spec.device_map_entries) {
    if (!IsDevice(device)) {
      return InvalidField("device_map_entries",
                          "\"" + module.substr(0, 100) + "\" is mapped to \"" +
                              device.substr(0, 100) +
                              "\", which is none of cpu, cuda, cpu:N, cuda:N");
    }
  }
  if (spec.max_context < 0) return InvalidField("max_context", "is below 0");
  return absl::OkStatus();
}

std::string_view InstanceStateName(InstanceState state) {
  switch (state) {
    case InstanceState::kUnspecified:
      break;
    case InstanceState::kLoading:
      return "loading";
    case InstanceState::kReady:
      return "ready";
    case InstanceState::kDraining:
      return "draining";
  }
  return "unspecified";
}

}  // namespace modeld
