// Repositories that tests write: temporary folders, files of the safetensors format,
// configurations.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/weights/config.h"

namespace modeld {

// A folder that is removed with this object.
class TemporaryRepository {
 public:
  TemporaryRepository();
  ~TemporaryRepository();
  TemporaryRepository(const TemporaryRepository&) = delete;
  TemporaryRepository& operator=(const TemporaryRepository&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, std::string_view content) const;

 private:
  std::string path_;
};

// Length, header and `data_bytes` zeros.
std::string SafetensorsBytes(std::string_view header_json, int64_t data_bytes);

// A small Llama's config.json, with `key` set to the JSON `value` when it is not empty; the value
// "absent" takes the key out.
std::string LlamaConfig(const std::string& key = "", const std::string& value = "");

// The file with the BF16 tensors that `config` needs, but for `without`.
std::string WeightsFor(const ArchitectureConfig& config, const std::string& without = "");

// What Fp8WeightsFor says of the scales; an empty dtype leaves them out.
struct Fp8ScaleOfTest {
  std::string dtype;
  std::vector<int64_t> shape;
};

// The same with query projections in F8_E4M3.
std::string Fp8WeightsFor(const ArchitectureConfig& config, const Fp8ScaleOfTest& scale);

}  // namespace modeld
