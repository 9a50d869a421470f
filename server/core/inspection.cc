#include "server/core/inspection.h"

#include <nlohmann/json.hpp>

#include "server/core/reason.h"

namespace modeld {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(ModuleNames, embedding, layer, norm, head,
                                                tied_head)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE_WITH_DEFAULT(
    Inspection, model_type, architecture, supported, reason, message, has_remote_code,
    makes_vectors, parameters, weights_file_bytes, weights_bytes, layer_bytes, embedding_bytes,
    norm_bytes, head_bytes, kv_bytes_per_token, layer_kv_bytes_per_token, state_bytes_per_sequence,
    layer_state_bytes, pass_bytes, logits_bytes, max_context, vocab_size, num_layers, hidden_size,
    modules, weight_files)

absl::Status Inspection::Supported() const {
  if (supported) return absl::OkStatus();
  const auto known = ParseReason(reason);
  return Error(known.value_or(Reason::kUnsupportedArchitecture), message,
               {{"model_type", model_type}, {"architecture", architecture}});
}

std::string InspectionToJson(const Inspection& inspection) {
  return nlohmann::json(inspection).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

absl::StatusOr<Inspection> InspectionFromJson(std::string_view json) {
  try {
    return nlohmann::json::parse(json).get<Inspection>();
  } catch (const nlohmann::json::exception& e) {
    return Error(Reason::kInternal,
                 std::string("modeld-engine inspect answered no JSON: ") + e.what());
  }
}

}  // namespace modeld
