// Every family against transformers, in float32 and bfloat16.
#include "tests/engine/models/golden.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

namespace modeld {
namespace {

class GoldenTest : public testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Families, GoldenTest,
                         testing::Values("tiny-llama", "tiny-llama-bias", "tiny-llama-linear",
                                         "tiny-llama-sharded", "tiny-qwen2", "tiny-qwen3"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(GoldenTest, LogitsOfWholePromptsAreTheReferences) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");

  for (size_t i = 0; i < golden.prompts.size(); ++i) {
    const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(i), 1000);

    EXPECT_LT(RelativeDistance(logits, golden.logits[i]), 1e-3) << "prompt " << i;
  }
}

TEST_P(GoldenTest, LogitsDoNotDependOnChunks) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");

  for (const int64_t chunk : {1, 3, 16, 17}) {
    const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(2), chunk);

    EXPECT_LT(RelativeDistance(logits, golden.logits[2]), 1e-3) << "chunks of " << chunk;
  }
}

// All prompts at once, one token a step after the first, as the scheduler runs them.
TEST_P(GoldenTest, BatchOfPromptsChoosesTheReferencesTokens) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  std::vector<std::unique_ptr<SequenceState>> states;
  std::vector<std::vector<int64_t>> next = golden.prompts;
  std::vector<std::vector<int64_t>> chosen(golden.prompts.size());
  for (size_t i = 0; i < next.size(); ++i) states.push_back(loaded.model->NewSequence());

  for (size_t step = 0; step < golden.greedy[0].size(); ++step) {
    std::vector<Segment> segments;
    for (size_t i = 0; i < next.size(); ++i) {
      ASSERT_TRUE(states[i]->Reserve(states[i]->length() + std::ssize(next[i])));
      segments.push_back({.state = states[i].get(), .token_ids = next[i]});
    }
    const at::Tensor logits = loaded.model->Forward(segments);
    ASSERT_EQ(logits.size(0), std::ssize(next));
    for (size_t i = 0; i < next.size(); ++i) {
      next[i] = {Best(logits[i])};
      chosen[i].push_back(next[i].front());
    }
  }

  EXPECT_EQ(chosen, golden.greedy);
}

TEST_P(GoldenTest, BFloat16IsAsCloseToFloat32AsTheReferences) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "bfloat16");
  std::vector<at::Tensor> distances;

  for (size_t i = 0; i < golden.prompts.size(); ++i) {
    const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(i), 1000);
    distances.push_back((logits - golden.logits[i]).abs().flatten());
  }

  const at::Tensor distance = at::cat(distances);
  EXPECT_LE(distance.mean().item<double>(), 1.25 * golden.bf16_mean);
  EXPECT_LE(distance.max().item<double>(), 1.25 * golden.bf16_max);
}

TEST_P(GoldenTest, Float16ComputesInFloat32OnTheCpu) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float16");

  const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(1), 1000);

  EXPECT_LT(RelativeDistance(logits, golden.logits[1]), 1e-3);
}

}  // namespace
}  // namespace modeld
