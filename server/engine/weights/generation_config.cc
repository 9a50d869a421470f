#include "server/engine/weights/generation_config.h"

#include <nlohmann/json.hpp>

#include "server/base/status.h"
#include "server/engine/weights/config_reader.h"

namespace modeld {

absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(
    std::string_view generation_json, const std::vector<int64_t>& config_eos_token_ids) {
  GenerationDefaults defaults;
  defaults.eos_token_ids = config_eos_token_ids;
  if (generation_json.empty()) return defaults;
  ASSIGN_OR_RETURN(const nlohmann::json json,
                   ParseJsonObject(generation_json, "generation_config.json"));
  ConfigReader reader(json, "generation_config.json");
  if (reader.Has("do_sample")) defaults.do_sample = reader.BoolOr("do_sample", false);
  if (reader.Has("temperature")) defaults.temperature = reader.NumberOr("temperature", {0, 100}, 1);
  if (reader.Has("top_p")) defaults.top_p = reader.NumberOr("top_p", {1e-6, 1}, 1);
  if (reader.Has("top_k")) defaults.top_k = reader.IntOr("top_k", {0, INT32_MAX}, 0);
  if (reader.Has("min_p")) defaults.min_p = reader.NumberOr("min_p", {0, 1}, 0);
  if (reader.Has("typical_p")) defaults.typical_p = reader.NumberOr("typical_p", {1e-6, 1}, 1);
  if (reader.Has("repetition_penalty")) {
    defaults.repetition_penalty = reader.NumberOr("repetition_penalty", {1e-6, 100}, 1);
  }
  if (reader.Has("max_new_tokens")) {
    defaults.max_new_tokens = reader.IntOr("max_new_tokens", {1, INT32_MAX}, 1);
  }
  if (reader.Has("eos_token_id")) {
    defaults.eos_token_ids = reader.IntsOf("eos_token_id", {0, INT32_MAX});
  }
  RETURN_IF_ERROR(reader.status());
  return defaults;
}

}  // namespace modeld
