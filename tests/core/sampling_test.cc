#include "server/core/sampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::HasSubstr;

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
  EXPECT_FALSE(DecideSampling({.typical_p = 0.1}, {}, 1, 100)->greedy);
  EXPECT_FALSE(DecideSampling({.top_n_sigma = 1}, {}, 1, 100)->greedy);
  EXPECT_FALSE(DecideSampling({.xtc_probability = 0.1}, {}, 1, 100)->greedy);
  EXPECT_TRUE(DecideSampling({.logit_bias = {{1, 1}}}, {}, 1, 100)->greedy);
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

TEST(SamplingTest, EndsOfRangesAreInside) {
  EXPECT_THAT(ValidateSampling({.temperature = 100,
                                .top_p = 1,
                                .min_p = 1,
                                .repetition_penalty = 100,
                                .presence_penalty = -2,
                                .frequency_penalty = 2,
                                .stop = {std::string(1000, 'x')},
                                .logprobs = 20,
                                .typical_p = 1,
                                .top_n_sigma = 100,
                                .logit_bias = {{0, -100}, {1, 100}},
                                .min_tokens = 0,
                                .dry_multiplier = 100,
                                .dry_base = 1,
                                .dry_allowed_length = 1,
                                .dry_penalty_last_n = 1,
                                .xtc_probability = 1,
                                .xtc_threshold = 0.5,
                                .n = 32,
                                .best_of = 32,
                                .prompt_logprobs = 20,
                                .length_penalty = -100,
                                .early_stopping = "never"}),
              IsOk());
}

TEST(SamplingTest, AnErrorNamesTheLimit) {
  const absl::Status status =
      ValidateSampling({.logit_bias = {{0, 1}, {1, 1}, {2, 1}}}, {.logit_bias_max = 2});

  EXPECT_THAT(status, NamesField("sampling.logit_bias"));
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("has 3 entries, at most 2 are allowed (limits.logit_bias_max)"));
  const auto message = [](const SamplingRequest& request, const RequestLimits& limits) {
    return std::string(ValidateSampling(request, limits).message());
  };
  EXPECT_THAT(message({.stop = {"a", "b"}}, {.stop_max = 1}),
              HasSubstr("has 2 entries, at most 1 are allowed (limits.stop_max)"));
  EXPECT_THAT(message({.stop_token_ids = {1, 2}}, {.stop_max = 1}), HasSubstr("(limits.stop_max)"));
  EXPECT_THAT(message({.bad_words = {"four"}}, {.stop_bytes_max = 3}),
              HasSubstr("a string has 4 bytes, not 1 to 3 (limits.stop_bytes_max)"));
  EXPECT_THAT(message({.bad_words = {"a", "b"}}, {.bad_words_max = 1}),
              HasSubstr("(limits.bad_words_max)"));
  EXPECT_THAT(message({.dry_sequence_breakers = {"a", "b"}}, {.dry_breakers_max = 1}),
              HasSubstr("(limits.dry_breakers_max)"));
  EXPECT_THAT(message({.logprobs = 3}, {.logprobs_max = 2}),
              HasSubstr("3 is not between 0 and 2 (limits.logprobs_max)"));
  EXPECT_THAT(message({.n = 3}, {.choices_max = 2}),
              HasSubstr("3 is not between 1 and 2 (limits.choices_max)"));
  EXPECT_THAT(message({.best_of = 3}, {.choices_max = 2}), HasSubstr("(limits.choices_max)"));
}

TEST(SamplingTest, MoreTokensThanMayComeAtAllCannotBeTheLeast) {
  EXPECT_THAT(DecideSampling({.max_tokens = 5, .min_tokens = 6}, {}, 1, 100),
              NamesField("sampling.min_tokens"));
  EXPECT_THAT(DecideSampling({.min_tokens = 100}, {}, 1, 100), NamesField("sampling.min_tokens"));
  EXPECT_EQ(DecideSampling({.max_tokens = 5, .min_tokens = 5}, {}, 1, 100)->min_tokens, 5);
}

TEST(SamplingTest, BeamSearchIsGreedyAndRefusesWhatHasNoPlaceInIt) {
  const auto sampling =
      DecideSampling({.n = 2, .num_beams = 4, .length_penalty = 0.5, .early_stopping = "true"},
                     {.do_sample = true, .temperature = 0.7}, 10, 100);
  ASSERT_THAT(sampling.status(), IsOk());
  EXPECT_TRUE(sampling->greedy);
  EXPECT_EQ(sampling->num_beams, 4);
  EXPECT_EQ(sampling->best_of, 2);
  EXPECT_EQ(sampling->length_penalty, 0.5);
  EXPECT_EQ(sampling->early_stopping, EarlyStopping::kYes);

  EXPECT_THAT(ValidateSampling({.n = 5, .num_beams = 4}), NamesField("sampling.n"));
  EXPECT_THAT(ValidateSampling({.best_of = 2, .num_beams = 4}), NamesField("sampling.best_of"));
  EXPECT_THAT(ValidateSampling({.stop = {"x"}, .num_beams = 4}), NamesField("sampling.stop"));
  EXPECT_THAT(ValidateSampling({.max_tokens = 0, .num_beams = 4}),
              NamesField("sampling.max_tokens"));
  EXPECT_THAT(ValidateSampling({.temperature = 0.5, .num_beams = 4}),
              NamesField("sampling.num_beams"));
  EXPECT_THAT(ValidateSampling({.temperature = 0, .num_beams = 4}), IsOk());
}

TEST(SamplingTest, BadFieldsAreNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(ValidateSampling({.max_tokens = -1}), NamesField("sampling.max_tokens"));
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
  EXPECT_THAT(ValidateSampling({.typical_p = 0}), NamesField("sampling.typical_p"));
  EXPECT_THAT(ValidateSampling({.top_n_sigma = -1}), NamesField("sampling.top_n_sigma"));
  EXPECT_THAT(ValidateSampling({.logit_bias = {{3, 100.5}}}), NamesField("sampling.logit_bias"));
  EXPECT_THAT(ValidateSampling({.min_tokens = -1}), NamesField("sampling.min_tokens"));
  EXPECT_THAT(ValidateSampling({.bad_words = {""}}), NamesField("sampling.bad_words"));
  EXPECT_THAT(ValidateSampling({.stop_token_ids = std::vector<int64_t>(17, 1)}),
              NamesField("sampling.stop_token_ids"));
  EXPECT_THAT(ValidateSampling({.dry_multiplier = nan}), NamesField("sampling.dry_multiplier"));
  EXPECT_THAT(ValidateSampling({.dry_base = 0.9}), NamesField("sampling.dry_base"));
  EXPECT_THAT(ValidateSampling({.dry_allowed_length = 0}),
              NamesField("sampling.dry_allowed_length"));
  EXPECT_THAT(ValidateSampling({.dry_penalty_last_n = 0}),
              NamesField("sampling.dry_penalty_last_n"));
  EXPECT_THAT(ValidateSampling({.dry_sequence_breakers = {std::string(1001, 'x')}}),
              NamesField("sampling.dry_sequence_breakers"));
  EXPECT_THAT(ValidateSampling({.xtc_probability = 1.1}), NamesField("sampling.xtc_probability"));
  EXPECT_THAT(ValidateSampling({.xtc_threshold = 0.6}), NamesField("sampling.xtc_threshold"));
  EXPECT_THAT(ValidateSampling({.n = 0}), NamesField("sampling.n"));
  EXPECT_THAT(ValidateSampling({.n = 33}), NamesField("sampling.n"));
  EXPECT_THAT(ValidateSampling({.best_of = 33}), NamesField("sampling.best_of"));
  EXPECT_THAT(ValidateSampling({.n = 3, .best_of = 2}), NamesField("sampling.best_of"));
  EXPECT_THAT(ValidateSampling({.prompt_logprobs = 21}), NamesField("sampling.prompt_logprobs"));
  EXPECT_THAT(ValidateSampling({.num_beams = 33}), NamesField("sampling.num_beams"));
  EXPECT_THAT(ValidateSampling({.length_penalty = nan}), NamesField("sampling.length_penalty"));
  EXPECT_THAT(ValidateSampling({.early_stopping = "yes"}), NamesField("sampling.early_stopping"));
}

}  // namespace
}  // namespace modeld
