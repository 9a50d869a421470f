#include "server/core/sampling.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

TEST(SamplingTest, SilenceIsGreedyAndFillsTheContext) {
  const auto sampling = DecideSampling({}, {}, 10, 100);

  ASSERT_THAT(sampling, IsOk());
  EXPECT_TRUE(sampling->greedy);
  EXPECT_EQ(sampling->max_tokens, 90);
}

TEST(SamplingTest, AnySamplingFieldOfTheRequestSamples) {
  EXPECT_FALSE(DecideSampling({.temperature = 0.5}, {}, 1, 100)->greedy);
  EXPECT_FALSE(DecideSampling({.top_p = 0.9}, {}, 1, 100)->greedy);
  EXPECT_FALSE(DecideSampling({.top_k = 5}, {}, 1, 100)->greedy);
  EXPECT_FALSE(DecideSampling({.min_p = 0.1}, {}, 1, 100)->greedy);
  EXPECT_EQ(DecideSampling({.top_p = 0.9}, {}, 1, 100)->temperature, 1.0);
}

TEST(SamplingTest, ModelsDefaultsAreTakenAndTemperatureZeroIsGreedy) {
  const GenerationDefaults defaults{.do_sample = true, .temperature = 0.7, .top_k = 20};

  const auto sampling = DecideSampling({}, defaults, 1, 100);

  ASSERT_THAT(sampling, IsOk());
  EXPECT_FALSE(sampling->greedy);
  EXPECT_EQ(sampling->temperature, 0.7);
  EXPECT_EQ(sampling->top_k, 20);
  EXPECT_TRUE(DecideSampling({.temperature = 0}, defaults, 1, 100)->greedy);
  EXPECT_TRUE(DecideSampling({}, {.temperature = 0.7}, 1, 100)->greedy);
}

TEST(SamplingTest, MoreThanTheContextIsRefusedWithTheFigures) {
  const auto sampling = DecideSampling({.max_tokens = 91}, {}, 10, 100);

  EXPECT_THAT(sampling, HasReasonOf(Reason::kContextLengthExceeded));
  EXPECT_EQ(DetailsOf(sampling.status()).metadata.at("max_context"), "100");
  EXPECT_THAT(DecideSampling({.max_tokens = 90}, {}, 10, 100), IsOk());
  EXPECT_THAT(DecideSampling({}, {}, 100, 100), HasReasonOf(Reason::kContextLengthExceeded));
}

TEST(SamplingTest, BadFieldsAreNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(ValidateSampling({.max_tokens = 0}), NamesField("sampling.max_tokens"));
  EXPECT_THAT(ValidateSampling({.temperature = -1}), NamesField("sampling.temperature"));
  EXPECT_THAT(ValidateSampling({.temperature = nan}), NamesField("sampling.temperature"));
  EXPECT_THAT(ValidateSampling({.top_p = 0}), NamesField("sampling.top_p"));
  EXPECT_THAT(ValidateSampling({.top_k = -1}), NamesField("sampling.top_k"));
  EXPECT_THAT(ValidateSampling({.min_p = 1.5}), NamesField("sampling.min_p"));
  EXPECT_THAT(ValidateSampling({.repetition_penalty = 0}),
              NamesField("sampling.repetition_penalty"));
  EXPECT_THAT(ValidateSampling({.presence_penalty = 3}), NamesField("sampling.presence_penalty"));
  EXPECT_THAT(ValidateSampling({.frequency_penalty = -3}),
              NamesField("sampling.frequency_penalty"));
  EXPECT_THAT(ValidateSampling({.stop = {""}}), NamesField("sampling.stop"));
  EXPECT_THAT(ValidateSampling({.stop = std::vector<std::string>(17, "x")}),
              NamesField("sampling.stop"));
  EXPECT_THAT(ValidateSampling({.logprobs = 21}), NamesField("sampling.logprobs"));
}

}  // namespace
}  // namespace modeld
