// From the vectors of a text's tokens to the text's own: pooling and what sentence-transformers
// puts behind it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/engine/weights/sentence_config.h"

namespace modeld {

// What `poolings` make of [tokens, hidden], float32: their vectors one after the other. The first
// `left_out` tokens, a prompt's, do not count; without any other the vector is 0.
at::Tensor Pool(const std::vector<Pooling>& poolings, const at::Tensor& tokens, int64_t left_out);

// Immutable; all in float32, as sentence-transformers has it.
class SentenceHead {
 public:
  // Reads the weights of the modules. INVALID_REPOSITORY when they are missing or of another shape;
  // throws c10::Error when memory does not last.
  static absl::StatusOr<SentenceHead> Load(const SentenceConfig& config,
                                           const std::string& snapshot_path, at::Device device);

  // tokens: [tokens, hidden], of which `prompt_tokens` are a prompt's. Returns [dimensions].
  at::Tensor operator()(const at::Tensor& tokens, int64_t prompt_tokens) const;

  int64_t bytes() const;  // of the weights

 private:
  struct Module {
    SentenceModule options;
    at::Tensor weight;  // kDense: [out, in]; kLayerNorm: [dimensions]
    at::Tensor bias;    // may be undefined
  };
  static absl::StatusOr<Module> LoadModule(const SentenceModule& options,
                                           const std::string& snapshot_path, at::Device device);

  std::vector<Pooling> poolings_;
  bool pools_prompt_ = true;
  std::vector<Module> modules_;
};

}  // namespace modeld
