// Runs `modeld-engine inspect`, the only parser of files from a repository, in a child of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>

#include "absl/status/statusor.h"
#include "server/core/inspection.h"

namespace modeld {

struct InspectorOptions {
  std::string program;
  std::chrono::milliseconds timeout{30'000};
  int64_t output_bytes_max = 16'000'000;
};

// Writes `request_json` to the child's stdin and reads its answer. INVALID_REPOSITORY when the
// child crashes, takes too long or says too much: a well-formed repository does none of that.
// CANCELLED on stop. The child is dead when this returns.
absl::StatusOr<Inspection> RunInspector(const InspectorOptions& options,
                                        const std::string& request_json, std::stop_token stop);

}  // namespace modeld
