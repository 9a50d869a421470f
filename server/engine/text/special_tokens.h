// The JSON files beside tokenizer.json: reading them, and the special tokens that they name.
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace modeld {

// The text of a snapshot's file; empty when it is not there. INVALID_REPOSITORY above `bytes_max`,
// and for a .json file of more values than any real one has.
absl::StatusOr<std::string> ReadSnapshotFile(const std::string& snapshot_path,
                                             const std::string& name, int64_t bytes_max);

// A snapshot's file as a JSON object; empty when the file is not there. INVALID_REPOSITORY when it
// is anything else.
absl::StatusOr<nlohmann::json> ReadSnapshotObject(const std::string& snapshot_path,
                                                  const std::string& name);

// "bos_token" -> "<s>" and so on, from tokenizer_config.json and, for what that does not name,
// special_tokens_map.json. A token is a string, or an object with a "content"; null means none.
// INVALID_REPOSITORY for a token that is anything else.
absl::StatusOr<std::map<std::string, std::string>> ReadSpecialTokens(
    const std::string& snapshot_path);

}  // namespace modeld
