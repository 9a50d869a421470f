// The tiny repositories below tests/data/models and what transformers computes for them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "server/engine/models/loader.h"

namespace modeld {

// Folder of one of the repositories that tests/goldens/make_models.py makes.
std::string TinyRepository(const std::string& name);

// All repositories that have goldens, sorted.
std::vector<std::string> GoldenNames();

// `name` as a part of a test's name.
std::string TestNameOf(std::string name);

struct Golden {
  std::vector<std::vector<int64_t>> prompts;
  std::vector<std::vector<int64_t>> greedy;  // float32, after each prompt
  std::vector<at::Tensor> logits;            // float32 [prompt + greedy - 1, vocab]
  // Rows before this one depend on how many tokens follow them in the same step.
  int64_t settled_row = 0;
  double bf16_mean = 0;  // distance of the reference's own bfloat16 logits
  double bf16_max = 0;

  // The prompt and all greedy tokens but the last: what `logits` belongs to.
  std::vector<int64_t> Fed(size_t index) const;
};

Golden LoadGolden(const std::string& name);

// On the CPU with 256 MB and one thread (libtorch's own threads are not known to TSan).
ModelLoadOptions TinyOptions(const std::string& name, const std::string& dtype);

// Loads or ends the test with the error.
LoadedModel LoadTiny(const std::string& name, const std::string& dtype);

// Runs `token_ids` through a new sequence, `chunk` tokens a step; logits of every token.
at::Tensor AllLogits(CausalLm& model, const std::vector<int64_t>& token_ids, int64_t chunk);

// Token ids that every one of the repositories has.
std::vector<int64_t> Ids(int64_t length, int64_t first);

// Logits of the last of `ids`, which follow what `state` holds.
at::Tensor Feed(CausalLm& model, SequenceState& state, const std::vector<int64_t>& ids);

// Of the last token, with a state of its own that reads `ids` at once and `more` one by one.
at::Tensor Alone(CausalLm& model, const std::vector<int64_t>& ids,
                 const std::vector<int64_t>& more);

// Largest |a - b| as a share of the largest |b|.
double RelativeDistance(const at::Tensor& a, const at::Tensor& b);

// The index of the largest logit of a row.
int64_t Best(const at::Tensor& row);

}  // namespace modeld
