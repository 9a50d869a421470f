// What `modeld-engine inspect` says of a repository: the daemon's only knowledge of architectures.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/device_map.h"

namespace modeld {

// Sizes are bytes. JSON keys have the names of the fields.
struct Inspection {
  std::string model_type;          // of config.json: "llama"
  std::string architecture;        // first of its "architectures", may be empty
  bool supported = false;          // loadable as it is
  std::string reason;              // else a reason of the contract: UNSUPPORTED_ARCHITECTURE, ...
  std::string message;             // and why, for people
  bool has_remote_code = false;    // config.json has auto_map
  bool makes_vectors = false;      // for Embed; else for Generate and Chat
  int64_t parameters = 0;          // 0: headers were not given
  int64_t weights_file_bytes = 0;  // tensor bytes as stored
  std::map<std::string, int64_t> weights_bytes;             // dtype -> bytes in memory, all layers
  std::map<std::string, std::vector<int64_t>> layer_bytes;  // dtype -> bytes of each layer
  std::map<std::string, int64_t> embedding_bytes;           // dtype -> bytes
  std::map<std::string, int64_t> norm_bytes;                // dtype -> bytes, of the last one
  // dtype -> bytes where the embedding is not on the same device; a tied head is a copy there.
  std::map<std::string, int64_t> head_bytes;
  // dtype -> bytes that one more token of context takes: keys and values of all layers, or, where
  // texts become vectors, the activations.
  std::map<std::string, int64_t> kv_bytes_per_token;
  // The same of each layer; empty where texts become vectors: those pass through every device.
  std::map<std::string, std::vector<int64_t>> layer_kv_bytes_per_token;
  int64_t state_bytes_per_sequence = 0;
  std::vector<int64_t> layer_state_bytes;  // the same of each layer
  // What a device needs beside them: to run any layer, and to run the head. 0: not known, which
  // only an inspection by an older version says.
  int64_t pass_bytes = 0;
  int64_t logits_bytes = 0;
  int64_t max_context = 0;  // tokens, of config.json
  int64_t vocab_size = 0;
  int64_t num_layers = 0;
  int64_t hidden_size = 0;
  ModuleNames modules;
  std::vector<std::string> weight_files;  // files that loading reads, sorted

  // Whether it was made with the headers, by a version that says all of the above.
  bool IsWhole() const { return supported && parameters > 0 && pass_bytes > 0; }

  // OK when supported, else an error with `reason` and `message`. `trust_remote_code` does not make
  // Python code run; it only changes what is said.
  absl::Status Supported() const;
};

std::string InspectionToJson(const Inspection& inspection);
// INTERNAL for text that the engine cannot have printed.
absl::StatusOr<Inspection> InspectionFromJson(std::string_view json);

}  // namespace modeld
