#include "server/engine/batch/logits_processors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace modeld {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNever = -std::numeric_limits<float>::infinity();

std::vector<float> AfterDry(const DrySampling& dry, const std::vector<int64_t>& tokens) {
  std::vector<float> scores(6);
  PenaliseDry(dry, tokens, scores);
  return scores;
}

std::vector<int64_t> Ids(const std::vector<Candidate>& candidates) {
  std::vector<int64_t> ids;
  for (const Candidate& c : candidates) ids.push_back(c.token_id);
  return ids;
}

std::vector<int64_t> Kept(const Sampling& sampling, const std::vector<float>& scores) {
  std::vector<Candidate> candidates;
  CandidatesOf(scores, sampling, candidates);
  return Ids(candidates);
}

TEST(LogitsProcessorsTest, IdsOutsideTheScoresDoNothing) {
  std::vector<float> scores = {1, 2};

  AddLogitBias({{-1, 5}, {2, 5}}, scores);
  PenaliseCounted({.repetition_penalty = 2}, {{-1, 1}, {2, 1}}, scores);
  BanTokens(std::vector<int64_t>{-1, 2}, scores);
  EXPECT_THAT(scores, ElementsAre(1, 2));

  KeepAllowed(std::vector<int64_t>{-1, 0, 2}, scores);
  EXPECT_THAT(scores, ElementsAre(1, kNever));
}

TEST(LogitsProcessorsTest, AMaskKeepsTheTokensOfItsBits) {
  std::vector<float> scores(70, 1);

  KeepMasked(std::vector<uint32_t>{0x80000002, 0}, scores);

  for (size_t i = 0; i < scores.size(); ++i) {
    EXPECT_EQ(scores[i], i == 1 || i == 31 ? 1 : kNever) << i;  // behind the mask too
  }
}

TEST(LogitsProcessorsTest, ABadWordIsBannedWhereItWouldBeComplete) {
  std::vector<float> scores(5);

  BanBadWords({{1, 2, 3}, {2, 4}, {3, 3}, {2, 2, 2, 2, 0}}, std::vector<int64_t>{1, 2}, scores);

  EXPECT_THAT(scores, ElementsAre(0, 0, 0, kNever, kNever));
}

// After 1 2 3 1 2 the 3 would make the repetition three long.
TEST(LogitsProcessorsTest, DryPenaltyGrowsWithTheRepetition) {
  const DrySampling dry = {.multiplier = 1, .base = 2, .allowed_length = 1};

  EXPECT_THAT(AfterDry(dry, {1, 2, 3, 1, 2}), ElementsAre(0, 0, 0, -2, 0, 0));
  EXPECT_THAT(AfterDry(dry, {5, 1, 2, 3, 5, 1, 2}), ElementsAre(0, 0, 0, -4, 0, 0));
  EXPECT_THAT(AfterDry(dry, {1, 2, 3}), Each(0));
}

// 4 follows "2" once, and 3 follows "1 2" and "2".
TEST(LogitsProcessorsTest, DryTakesTheLongestOfTheRepetitionsThatATokenWouldProlong) {
  const DrySampling dry = {.multiplier = 1, .base = 3, .allowed_length = 1};

  EXPECT_THAT(AfterDry(dry, {1, 2, 3, 0, 2, 3, 5, 2, 4, 1, 2}), ElementsAre(0, 0, 0, -3, -1, 0));
}

TEST(LogitsProcessorsTest, NoRepetitionReachesOverABreaker) {
  const DrySampling dry = {
      .multiplier = 1, .base = 2, .allowed_length = 1, .breaker_token_ids = {1}};

  EXPECT_THAT(AfterDry(dry, {5, 1, 2, 3, 5, 1, 2}), ElementsAre(0, 0, 0, -1, 0, 0));
  EXPECT_THAT(AfterDry(dry, {2, 1, 2}), Each(0));  // a breaker itself is not penalised
}

TEST(LogitsProcessorsTest, DryOfOneTokenThousandTimesStaysFinite) {
  const std::vector<float> scores =
      AfterDry({.multiplier = 100, .base = 100}, std::vector<int64_t>(10'000, 3));

  EXPECT_LT(scores[3], -1e29F);
  EXPECT_TRUE(std::isfinite(scores[3]));
}

TEST(LogitsProcessorsTest, TopNSigmaLooksAtTheScoresThatCanBeDrawn) {
  // Mean 2, standard deviation 2.
  EXPECT_THAT(Kept({.top_n_sigma = 1}, {0, 4, kNever, 0, 4}), ElementsAre(1, 4));
  EXPECT_THAT(Kept({.top_n_sigma = 2}, {0, 4, kNever, 0, 4}), ElementsAre(0, 1, 3, 4));
}

TEST(LogitsProcessorsTest, CandidatesStayInOrderOfToken) {
  std::vector<Candidate> candidates;
  CandidatesOf(std::vector<float>{1, 3, 2, 3, -5, 2.5F}, {.top_k = 4}, candidates);
  EXPECT_THAT(Ids(candidates), ElementsAre(1, 2, 3, 5));

  KeepTopP(0.6, candidates);

  EXPECT_THAT(Ids(candidates), ElementsAre(1, 3));
}

TEST(LogitsProcessorsTest, OfEquallyLikelyTokensTopPKeepsTheFirst) {
  std::vector<Candidate> candidates = {{0, 1}, {1, 1}, {2, 1}, {3, 1}};

  KeepTopP(0.5, candidates);

  EXPECT_THAT(Ids(candidates), ElementsAre(0, 1));
}

// Probabilities 0.5, 0.25, 0.125, 0.125: the entropy is 1.75 bits, so 0.25 (2 bits) is nearest.
TEST(LogitsProcessorsTest, TypicalSamplingMayDropTheLikeliest) {
  const std::vector<Candidate> all = {{0, 1}, {1, 0.5}, {2, 0.25}, {3, 0.25}};
  std::vector<Candidate> few = all;
  std::vector<Candidate> most = all;

  KeepTypical(0.2, few);
  KeepTypical(0.7, most);

  EXPECT_THAT(Ids(few), ElementsAre(1));
  EXPECT_THAT(Ids(most), ElementsAre(0, 1));
}

TEST(LogitsProcessorsTest, ExcludingTopChoicesLeavesTheLeastLikelyOfThem) {
  std::vector<Candidate> candidates = {{0, 1}, {1, 0.5}, {2, 0.25}, {3, 0.25}};
  std::vector<Candidate> one_choice = candidates;

  ExcludeTopChoices(0.2, candidates);
  ExcludeTopChoices(0.5, one_choice);

  EXPECT_THAT(Ids(candidates), ElementsAre(1, 2, 3));
  EXPECT_THAT(Ids(one_choice), ElementsAre(0, 1, 2, 3));
}

TEST(LogitsProcessorsTest, DrawsByTheRunningShare) {
  const std::vector<Candidate> candidates = {{4, 1}, {6, 0.5}, {9, 0.5}};

  EXPECT_EQ(DrawAt(0, candidates), 4);
  EXPECT_EQ(DrawAt(0.499, candidates), 4);
  EXPECT_EQ(DrawAt(0.5, candidates), 6);
  EXPECT_EQ(DrawAt(0.75, candidates), 9);
  EXPECT_EQ(DrawAt(1, candidates), 9);
}

}  // namespace
}  // namespace modeld
