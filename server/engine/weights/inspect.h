// What `modeld-engine inspect` finds out about a repository from its small files and weight
// headers.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/core/inspection.h"

namespace modeld {

struct InspectedRepository {
  bool trust_remote_code = false;
  // The repository's listing: path -> bytes, -1 where the size is not known. Empty: not known, then
  // nothing is said about missing files.
  std::map<std::string, int64_t> files;
  std::string config_json;
  std::optional<std::string> index_json;        // of model.safetensors.index.json
  std::optional<std::string> torch_index_json;  // of pytorch_model.bin.index.json
  std::map<std::string, std::string> headers;   // weight file -> its first 8 + N bytes
  std::map<std::string, std::string> texts;     // of modules.json and the files that it names
};

// Problems of the repository are in the answer (`supported` false, `reason`, `message`), never an
// error. Tensors are checked when the headers of all weight files are given, and their names by the
// index of a sharded pytorch_model.bin, whose files have no headers; sizes come from
// config.json, so that they are there without headers too. weights_bytes and the others have an
// entry for bfloat16, float16 and float32: on a device that computes float16 in float32 (every cpu)
// the entry of float32 counts.
Inspection Inspect(const InspectedRepository& repository);

}  // namespace modeld
