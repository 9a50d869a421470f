// generation_config.json: how a model is sampled when a request does not say.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/core/sampling.h"

namespace modeld {

// `generation_json` may be empty: not every repository has the file. The end tokens are the file's,
// else `config_eos_token_ids`. INVALID_REPOSITORY naming key and value.
absl::StatusOr<GenerationDefaults> ReadGenerationDefaults(
    std::string_view generation_json, const std::vector<int64_t>& config_eos_token_ids);

}  // namespace modeld
