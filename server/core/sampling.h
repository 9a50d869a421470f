// How the next token is chosen and when generation ends.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/request_limits.h"

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
  std::optional<double> typical_p;
  std::optional<double> top_n_sigma;
  std::map<int64_t, double> logit_bias;  // by token
  std::optional<int64_t> min_tokens;
  std::vector<std::string> bad_words;
  std::vector<int64_t> allowed_token_ids;
  std::vector<int64_t> stop_token_ids;
  std::optional<double> dry_multiplier;
  std::optional<double> dry_base;
  std::optional<int64_t> dry_allowed_length;
  std::optional<int64_t> dry_penalty_last_n;
  std::vector<std::string> dry_sequence_breakers;
  std::optional<double> xtc_probability;
  std::optional<double> xtc_threshold;
  std::optional<int32_t> n;
  std::optional<int32_t> best_of;
  std::optional<int32_t> prompt_logprobs;  // as logprobs, for the tokens of the prompt
  std::optional<int32_t> num_beams;
  std::optional<double> length_penalty;
  std::optional<std::string> early_stopping;  // "false", "true" or "never"
};

// INVALID_FIELD naming "sampling.<field>", its range as the proto has it and the limit, if it is
// one of `limits`; no NaN. Token ids are not looked at.
absl::Status ValidateSampling(const SamplingRequest& request, const RequestLimits& limits = {});

// What generation_config.json says; fields that it lacks have no value.
struct GenerationDefaults {
  std::optional<bool> do_sample;
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<int64_t> top_k;
  std::optional<double> min_p;
  std::optional<double> typical_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> max_new_tokens;
  std::vector<int64_t> eos_token_ids;
};

// "Don't repeat yourself": see PenaliseDry().
struct DrySampling {
  double multiplier = 0;  // 0: off
  double base = 1.75;
  int64_t allowed_length = 2;
  std::optional<int64_t> penalty_last_n;  // absent: all of prompt and answer
  std::vector<int64_t> breaker_token_ids;
};

// When beam search ends before its beams do: transformers' early_stopping.
enum class EarlyStopping {
  kNo,     // as soon as no running beam is better than the finished ones, for its length now
  kYes,    // as soon as there are num_beams finished ones
  kNever,  // as soon as no running beam can become better, however long it gets
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
  double typical_p = 1;    // 1: off
  double top_n_sigma = 0;  // 0: off
  std::map<int64_t, double> logit_bias;
  int64_t min_tokens = 0;
  std::vector<std::vector<int64_t>> bad_words;  // the tokens of each
  std::vector<int64_t> allowed_token_ids;       // empty: all
  std::vector<int64_t> stop_token_ids;
  DrySampling dry;
  double xtc_probability = 0;  // 0: off
  double xtc_threshold = 0.1;
  int n = 1;        // choices that are answered
  int best_of = 1;  // choices that are generated; at least n
  std::optional<int32_t> prompt_logprobs;
  int num_beams = 1;  // 1: no beam search
  double length_penalty = 1;
  EarlyStopping early_stopping = EarlyStopping::kNo;

  // Whether choices are kept until all have ended and the best ones answered.
  bool ranks_choices() const { return best_of > n; }
};

// Merges by the contract: a request's field, else the model's, else off. Greedy unless do_sample is
// true or the request sets temperature above 0, top_p, top_k, min_p, typical_p, top_n_sigma or
// xtc_probability; temperature 0 is greedy whatever else is set, and so are beams, which a request
// cannot have together with one of the others. The context that the prompt leaves
// is the default of max_tokens, and its bound: CONTEXT_LENGTH_EXCEEDED when the request asks for
// more. What needs a tokenizer stays empty: bad_words and the breakers of DRY.
absl::StatusOr<Sampling> DecideSampling(const SamplingRequest& request,
                                        const GenerationDefaults& defaults, int64_t prompt_tokens,
                                        int64_t max_context, const RequestLimits& limits = {});

}  // namespace modeld
