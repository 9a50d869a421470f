// Sampling beside numbers that were computed without it: tests/goldens/make_sampling.py.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "server/engine/batch/sampler.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using nlohmann::json;

json Golden(const std::string& name) {
  std::ifstream file(std::string(MODELD_TEST_DATA) + "/sampling/" + name);
  return json::parse(file);
}

DrySampling DryOf(const json& in) {
  DrySampling out;
  out.multiplier = in.value("multiplier", out.multiplier);
  out.base = in.value("base", out.base);
  out.allowed_length = in.value("allowed_length", out.allowed_length);
  if (in.contains("penalty_last_n")) out.penalty_last_n = in["penalty_last_n"].get<int64_t>();
  out.breaker_token_ids = in.value("breaker_token_ids", out.breaker_token_ids);
  return out;
}

Sampling SamplingOf(const json& in) {
  Sampling out;
  out.greedy = false;
  out.temperature = in.value("temperature", out.temperature);
  out.top_k = in.value("top_k", out.top_k);
  out.top_p = in.value("top_p", out.top_p);
  out.min_p = in.value("min_p", out.min_p);
  out.typical_p = in.value("typical_p", out.typical_p);
  out.top_n_sigma = in.value("top_n_sigma", out.top_n_sigma);
  out.repetition_penalty = in.value("repetition_penalty", out.repetition_penalty);
  out.presence_penalty = in.value("presence_penalty", out.presence_penalty);
  out.frequency_penalty = in.value("frequency_penalty", out.frequency_penalty);
  out.min_tokens = in.value("min_tokens", out.min_tokens);
  out.stop_token_ids = in.value("stop_token_ids", out.stop_token_ids);
  out.bad_words = in.value("bad_words", out.bad_words);
  out.allowed_token_ids = in.value("allowed_token_ids", out.allowed_token_ids);
  out.xtc_probability = in.value("xtc_probability", out.xtc_probability);
  out.xtc_threshold = in.value("xtc_threshold", out.xtc_threshold);
  if (in.contains("dry")) out.dry = DryOf(in["dry"]);
  const json logit_bias = in.value("logit_bias", json::object());
  for (const auto& [id, bias] : logit_bias.items()) out.logit_bias[std::stoll(id)] = bias;
  return out;
}

// A row of logits with the tokens before it.
struct Row {
  std::vector<float> logits;
  std::vector<int64_t> tokens;
  int64_t prompt_tokens = 0;
};

int64_t TokenOf(const Sampling& sampling, const Row& row, uint64_t seed) {
  Sampler sampler(
      sampling,
      {.seed = seed, .prompt_tokens = row.prompt_tokens, .end_token_ids = sampling.stop_token_ids});
  const absl::StatusOr<SampledToken> token = sampler.Next(row.tokens, row.logits);
  EXPECT_THAT(token, IsOk());
  return token.ok() ? token->token_id : -1;
}

// SplitMix64's mixing function (Steele, Lea, Flood, 2014), as the script has it.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

Row RowOf(const json& golden) {
  const auto number = golden["case"].get<uint64_t>();
  const auto vocab = golden["vocab"].get<uint64_t>();
  Row row;
  row.prompt_tokens = golden["prompt"];
  for (uint64_t i = 0; i < vocab; ++i) {
    const auto steps = static_cast<int64_t>(Mix(number << 32 | i) >> 40) - (1 << 23);
    row.logits.push_back(static_cast<float>(steps) / (1 << 20));
  }
  const uint64_t length = row.prompt_tokens + golden["answer"].get<int64_t>();
  for (uint64_t i = 0; i < length; ++i) {
    row.tokens.push_back(static_cast<int64_t>(Mix(number << 32 | uint64_t{1} << 31 | i) % vocab));
  }
  return row;
}

// 200,000 draws for each setting. A token that must not come never does.
TEST(SamplingGoldenTest, DrawsHaveTheExactProbabilities) {
  constexpr int kDraws = 200'000;
  const json golden = Golden("distributions.json");
  Row row{.logits = golden["logits"], .tokens = golden["prompt"]};
  row.prompt_tokens = std::ssize(row.tokens);
  for (const int64_t id : golden["answer"]) row.tokens.push_back(id);
  ASSERT_GE(golden["settings"].size(), 20U);

  for (const json& setting : golden["settings"]) {
    const Sampling sampling = SamplingOf(setting["sampling"]);
    std::vector<int> counts(row.logits.size());
    for (uint64_t seed = 0; seed < kDraws; ++seed) ++counts.at(TokenOf(sampling, row, seed));

    double chi_square = 0;
    for (size_t id = 0; id < counts.size(); ++id) {
      const double expected = setting["probabilities"][id].get<double>() * kDraws;
      if (expected == 0) {
        EXPECT_EQ(counts[id], 0) << setting["name"] << " token " << id;
      } else {
        chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
      }
    }
    EXPECT_LT(chi_square, setting["chi_square_max"].get<double>()) << setting["name"];
  }
}

TEST(SamplingGoldenTest, GreedyAndSeededTokensAreThoseOfTransformersProcessors) {
  const json golden = Golden("cases.json");
  ASSERT_EQ(golden.size(), 1000U);

  for (const json& one : golden) {
    const Row row = RowOf(one);
    Sampling sampling = SamplingOf(one["sampling"]);
    const auto number = one["case"].get<uint64_t>();
    std::vector<int64_t> drawn;
    for (uint64_t seed = 0; seed < one["drawn"].size(); ++seed) {
      drawn.push_back(TokenOf(sampling, row, Mix(number << 8 | seed)));
    }
    EXPECT_EQ(drawn, one["drawn"].get<std::vector<int64_t>>()) << one;

    sampling.greedy = true;
    EXPECT_EQ(TokenOf(sampling, row, 0), one["greedy"].get<int64_t>()) << one;
  }
}

}  // namespace
}  // namespace modeld
