// Every family against transformers, in float32 and bfloat16.
#include "tests/engine/models/golden.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"

namespace modeld {
namespace {

class GoldenTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, GoldenTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& test) { return TestNameOf(test.param); });

TEST_P(GoldenTest, LogitsOfWholePromptsAreTheReferences) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  double largest = 0;

  for (size_t i = 0; i < golden.prompts.size(); ++i) {
    const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(i), 1000);

    const double distance = RelativeDistance(logits, golden.logits[i]);
    EXPECT_LT(distance, 1e-3) << "prompt " << i;
    largest = std::max(largest, distance);
  }
  // For the table of architectures in README.md.
  RecordProperty("largest_distance", absl::StrFormat("%.1e", largest));
}

TEST_P(GoldenTest, LogitsDoNotDependOnChunks) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");

  for (const int64_t chunk : {1, 3, 16, 17}) {
    const at::Tensor logits = AllLogits(*loaded.model, golden.Fed(2), chunk);

    const auto settled = [&](const at::Tensor& rows) { return rows.slice(0, golden.settled_row); };
    EXPECT_LT(RelativeDistance(settled(logits), settled(golden.logits[2])), 1e-3)
        << "chunks of " << chunk;
  }
}

// Eight sequences of different lengths at once, one token a step after the first, as the scheduler
// runs them. Some start behind a few of the golden's tokens.
TEST_P(GoldenTest, MixedBatchChoosesTheReferencesTokens) {
  struct Start {
    size_t prompt;
    int64_t given;  // greedy tokens
  };
  constexpr Start kStarts[] = {{0, 0}, {1, 0}, {2, 0}, {0, 5}, {1, 9}, {2, 13}, {2, 3}, {1, 17}};
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel loaded = LoadTiny(GetParam(), "float32");
  std::vector<std::unique_ptr<SequenceState>> states;
  std::vector<std::vector<int64_t>> next;
  std::vector<std::vector<int64_t>> chosen;
  for (const Start& start : kStarts) {
    const std::vector<int64_t>& greedy = golden.greedy[start.prompt];
    states.push_back(loaded.model->NewSequence());
    chosen.emplace_back(greedy.begin(), greedy.begin() + start.given);
    next.push_back(golden.prompts[start.prompt]);
    next.back().insert(next.back().end(), chosen.back().begin(), chosen.back().end());
  }

  for (size_t step = 0; step < golden.greedy[0].size(); ++step) {
    std::vector<Segment> segments;
    std::vector<size_t> running;
    for (size_t i = 0; i < next.size(); ++i) {
      if (chosen[i].size() == golden.greedy[0].size()) continue;
      ASSERT_TRUE(states[i]->Reserve(states[i]->length() + std::ssize(next[i])));
      segments.push_back({.state = states[i].get(), .token_ids = next[i]});
      running.push_back(i);
    }
    const at::Tensor logits = loaded.model->Forward(segments);
    ASSERT_EQ(logits.size(0), std::ssize(running));
    for (size_t row = 0; row < running.size(); ++row) {
      next[running[row]] = {Best(logits[static_cast<int64_t>(row)])};
      chosen[running[row]].push_back(next[running[row]].front());
    }
  }

  for (size_t i = 0; i < chosen.size(); ++i) {
    EXPECT_EQ(chosen[i], golden.greedy[kStarts[i].prompt]) << "sequence " << i;
  }
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
  RecordProperty("bf16_mean_share",
                 absl::StrFormat("%.2f", distance.mean().item<double>() / golden.bf16_mean));
  RecordProperty("bf16_max_share",
                 absl::StrFormat("%.2f", distance.max().item<double>() / golden.bf16_max));
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
