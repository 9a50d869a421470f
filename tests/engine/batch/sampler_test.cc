#include "server/engine/batch/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::ElementsAre;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A sampler with the tokens that it is shown: those of the prompt, then what it chose.
class Chooser {
 public:
  explicit Chooser(Sampling sampling, std::vector<int64_t> prompt = {}, uint64_t seed = 0)
      : sampling_(std::move(sampling)),
        tokens_(std::move(prompt)),
        sampler_(sampling_, {.seed = seed, .prompt_tokens = std::ssize(tokens_)}) {}

  absl::StatusOr<SampledToken> TryNext(const std::vector<float>& logits) {
    return sampler_.Next(tokens_, logits);
  }

  int64_t Next(const std::vector<float>& logits) {
    absl::StatusOr<SampledToken> token = TryNext(logits);
    EXPECT_THAT(token, IsOk());
    tokens_.push_back(token.ok() ? token->token_id : -1);
    return tokens_.back();
  }

  // The tokens of `n` positions with the same logits.
  std::vector<int64_t> Next(const std::vector<float>& logits, int n) {
    std::vector<int64_t> ids;
    for (int i = 0; i < n; ++i) ids.push_back(Next(logits));
    return ids;
  }

 private:
  const Sampling sampling_;
  std::vector<int64_t> tokens_;
  Sampler sampler_;
};

// What comes out of `n` independent draws from one row.
std::map<int64_t, int> Draw(Sampling sampling, const std::vector<float>& logits, int n) {
  sampling.greedy = false;
  std::map<int64_t, int> counts;
  for (int seed = 0; seed < n; ++seed) ++counts[Chooser(sampling, {}, seed).Next(logits)];
  return counts;
}

std::set<int64_t> Support(const Sampling& sampling, const std::vector<float>& logits) {
  std::set<int64_t> ids;
  for (const auto& [id, count] : Draw(sampling, logits, 2000)) ids.insert(id);
  return ids;
}

// Rows whose probabilities are these.
std::vector<float> Logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(SamplerTest, GreedyTakesTheHighestAndTheFirstOfEquals) {
  Chooser chooser({});

  EXPECT_EQ(chooser.Next({1, 3, 2}), 1);
  EXPECT_EQ(chooser.Next({5, 7, 7}), 1);
  EXPECT_EQ(chooser.Next({-kInfinity, -4, -kInfinity}), 1);
}

// 4 / 1.5 = 2.67 is below 3, and -1 * 1.5 = -1.5 is below -1.2.
TEST(SamplerTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeLogits) {
  EXPECT_EQ(Chooser({.repetition_penalty = 1.5}, {0}).Next({4, 3}), 1);
  EXPECT_EQ(Chooser({.repetition_penalty = 1.5}, {0}).Next({-1, -1.2F}), 1);
}

// Token 0: 5.0, then 5.0 - 1.5, then also 1.5 less for the second time it is there: never twice in
// a row. 5 4 1 -> 3.5 4 1 -> 3.5 2.5 1 -> 2 2.5 1 -> 2 1 1
TEST(SamplerTest, FrequencyPenaltyCountsEachTimeInTheAnswer) {
  EXPECT_THAT(Chooser({.frequency_penalty = 1.5}, {0, 0, 0}).Next({5, 4, 1}, 5),
              ElementsAre(0, 1, 0, 1, 0));
}

// 5 4 1 -> 3 4 1 -> 3 2 1 -> 3 2 1
TEST(SamplerTest, PresencePenaltyCountsOnce) {
  EXPECT_THAT(Chooser({.presence_penalty = 2}).Next({5, 4, 1}, 4), ElementsAre(0, 1, 0, 0));
}

TEST(SamplerTest, BansThatLeaveNothingAreTheRequestsFault) {
  Chooser chooser({.bad_words = {{1}}, .allowed_token_ids = {1}});

  EXPECT_THAT(chooser.TryNext({1, 2, 3}), NamesField("sampling.allowed_token_ids"));
}

TEST(SamplerTest, TopKKeepsTheLikeliestAndTiesWithTheLast) {
  EXPECT_THAT(Support({.top_k = 2}, {3, 1, 2, 0}), ElementsAre(0, 2));
  EXPECT_THAT(Support({.top_k = 2}, {3, 2, 2, 0}), ElementsAre(0, 1, 2));
  EXPECT_THAT(Support({.top_k = 100}, {1, 1, 1}), ElementsAre(0, 1, 2));
}

TEST(SamplerTest, TopPKeepsTheSmallestSetWithAtLeastThatProbability) {
  const std::vector<float> logits = Logs({0.1, 0.5, 0.15, 0.25});

  EXPECT_THAT(Support({.top_p = 0.4}, logits), ElementsAre(1));
  EXPECT_THAT(Support({.top_p = 0.6}, logits), ElementsAre(1, 3));
  EXPECT_THAT(Support({.top_p = 0.8}, logits), ElementsAre(1, 2, 3));
}

// After top_k 2 the two have 2/3 and 1/3, so 0.6 is reached by the first alone.
TEST(SamplerTest, TopPSeesTheProbabilitiesThatTopKLeft) {
  const std::vector<float> logits = Logs({0.4, 0.2, 0.19, 0.21});

  EXPECT_THAT(Support({.top_p = 0.6}, logits), ElementsAre(0, 3));
  EXPECT_THAT(Support({.top_p = 0.6, .top_k = 2}, logits), ElementsAre(0));
}

TEST(SamplerTest, MinPDropsWhatIsUnlikelyBesideTheLikeliest) {
  EXPECT_THAT(Support({.min_p = 0.5}, Logs({0.5, 0.3, 0.2})), ElementsAre(0, 1));
}

// 3000 draws of p = 0.6: five standard deviations are 134.
TEST(SamplerTest, DrawsFollowTheProbabilities) {
  const std::map<int64_t, int> counts = Draw({}, Logs({0.3, 0.6, 0.1}), 3000);

  EXPECT_NEAR(counts.at(0), 900, 126);
  EXPECT_NEAR(counts.at(1), 1800, 134);
  EXPECT_NEAR(counts.at(2), 300, 83);
}

// Temperature 0.5 squares the odds: 0.8 to 0.2 becomes 16 to 1.
TEST(SamplerTest, TemperatureSharpens) {
  const std::map<int64_t, int> counts = Draw({.temperature = 0.5}, Logs({0.8, 0.2}), 3400);

  EXPECT_NEAR(counts.at(1), 200, 69);
}

TEST(SamplerTest, ATemperatureNearZeroDoesNotOverflow) {
  EXPECT_THAT(Support({.temperature = 1e-9}, {1000, 999, -1000}), ElementsAre(0));
}

TEST(SamplerTest, ASeedRepeats) {
  const Sampling sampling = {.greedy = false};
  const std::vector<float> logits(50, 1.0F);

  const std::vector<int64_t> first = Chooser(sampling, {}, 7).Next(logits, 20);

  EXPECT_EQ(Chooser(sampling, {}, 7).Next(logits, 20), first);
  EXPECT_NE(Chooser(sampling, {}, 8).Next(logits, 20), first);
}

// The row's own probabilities: penalties, temperature and filters are not part of it.
TEST(SamplerTest, LogprobsAreThoseBeforePenaltiesAndFilters) {
  Chooser chooser({.repetition_penalty = 100, .logprobs = 2}, {2});

  const absl::StatusOr<SampledToken> token = chooser.TryNext(Logs({0.3, 0.1, 0.6}));

  ASSERT_THAT(token, IsOk());
  ASSERT_TRUE(token->logprobs.has_value());
  EXPECT_EQ(token->logprobs->chosen.token_id, token->token_id);
  ASSERT_EQ(token->logprobs->top.size(), 2U);
  EXPECT_EQ(token->logprobs->top[0].token_id, 2);
  EXPECT_NEAR(token->logprobs->top[0].logprob, std::log(0.6), 1e-6);
  EXPECT_EQ(token->logprobs->top[1].token_id, 0);
  EXPECT_NEAR(token->logprobs->top[1].logprob, std::log(0.3), 1e-6);
}

TEST(SamplerTest, NoAlternativesAreGivenForZeroLogprobs) {
  const absl::StatusOr<SampledToken> token = Chooser({.logprobs = 0}).TryNext(Logs({0.25, 0.75}));

  ASSERT_THAT(token, IsOk());
  EXPECT_NEAR(token->logprobs->chosen.logprob, std::log(0.75), 1e-6);
  EXPECT_TRUE(token->logprobs->top.empty());
}

TEST(SamplerTest, LogitsThatAreNoDistributionAreAnError) {
  Chooser chooser({});

  EXPECT_THAT(chooser.TryNext({1, NAN, 2}), HasReasonOf(Reason::kInternal));
  EXPECT_THAT(chooser.TryNext({1, kInfinity}), HasReasonOf(Reason::kInternal));
  EXPECT_THAT(chooser.TryNext({-kInfinity, -kInfinity}), HasReasonOf(Reason::kInternal));
}

}  // namespace
}  // namespace modeld
