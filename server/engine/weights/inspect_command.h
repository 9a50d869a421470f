// `modeld-engine inspect`: one JSON object on stdin, core's Inspection as JSON on stdout.
//
//   {"trust_remote_code": false,
//    "files": [{"path": "model.safetensors", "size_bytes": 269060552}, ...],   the listing
//    "config": "<text of config.json>",
//    "index": "<text of model.safetensors.index.json>",                        optional
//    "torch_index": "<text of pytorch_model.bin.index.json>",                  optional
//    "texts": {"modules.json": "<its text>", "1_Pooling/config.json": ...},    optional
//    "headers": {"model.safetensors": "<base64 of its first 8 + N bytes>"}}    optional
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace modeld {

// The answer to one input; INVALID_ARGUMENT when the input is not such JSON. What is wrong with the
// repository is part of the answer.
absl::StatusOr<std::string> RunInspect(std::string_view input);

// Reads stdin (at most 256 MB), prints the answer and a newline. Returns the exit status: 0 also
// for unsupported repositories, 1 with a message on stderr when there is no answer.
int InspectMain();

}  // namespace modeld
