// How the next token is chosen and when generation ends.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// What a request sets; a field without a value comes from the model's generation_config.json.
struct SamplingRequest {
  std::optional<int64_t> max_tokens;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::optional<int32_t> logprobs;  // alternatives per token; 0: the chosen token only
  std::optional<bool> ignore_eos;
};

// INVALID_FIELD naming "sampling.<field>": max_tokens >= 1, temperature 0 to 100, top_p in (0, 1],
// top_k >= 0 (0: off), min_p in [0, 1], repetition_penalty in (0, 100], the other penalties -2 to
// 2, stop at most 16 strings of 1 to 1,000 bytes, logprobs 0 to 20; no NaN.
absl::Status ValidateSampling(const SamplingRequest& request);

// What generation_config.json says; fields that it lacks have no value.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_new_tokens;
  std::vector<int64_t> eos_token_ids;
};

// Every field decided.
struct Sampling {
  bool greedy = true;
  double temperature = 1;
  double top_p = 1;               // 1: off
  int64_t top_k = 0;              // 0: off
  double min_p = 0;               // 0: off
  double repetition_penalty = 1;  // 1: off
  double presence_penalty = 0;
  double frequency_penalty = 0;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::optional<int32_t> logprobs;
  bool ignore_eos = false;
  int64_t max_tokens = 0;
};

// Merges by the contract: a request's field, else the model's, else off. Greedy unless do_sample is
// true or the request sets temperature above 0, top_p, top_k or min_p; temperature 0 is greedy
// whatever else is set. `context_left` (tokens after the prompt) is the default of max_tokens, and
// its bound: CONTEXT_LENGTH_EXCEEDED when the request asks for more.
absl::StatusOr<Sampling> DecideSampling(const SamplingRequest& request,
                                        const GenerationDefaults& defaults, int64_t prompt_tokens,
                                        int64_t max_context);

}  // namespace modeld
