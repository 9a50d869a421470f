#include "server/core/sampling.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

absl::Status CheckRange(const char* field, std::optional<double> value, double low, double high) {
  if (!value || (std::isfinite(*value) && *value >= low && *value <= high)) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field),
                      absl::StrCat(*value, " is not between ", low, " and ", high));
}

absl::Status CheckAtLeast(const char* field, std::optional<int64_t> value, int64_t low) {
  if (!value || *value >= low) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field), absl::StrCat(*value, " is below ", low));
}

// A bound that the configuration sets.
struct Limit {
  const char* key;
  int64_t value;
};

absl::Status CheckRange(const char* field, std::optional<int64_t> value, int64_t low, Limit limit) {
  if (!value || (*value >= low && *value <= limit.value)) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field),
                      absl::StrCat(*value, " is not between ", low, " and ", limit.value,
                                   " (limits.", limit.key, ")"));
}

absl::Status CheckCount(const char* field, size_t count, Limit limit) {
  if (static_cast<int64_t>(count) <= limit.value) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field),
                      absl::StrCat("has ", count, " entries, at most ", limit.value,
                                   " are allowed (limits.", limit.key, ")"));
}

absl::Status CheckStrings(const char* field, const std::vector<std::string>& strings, Limit limit,
                          const RequestLimits& limits) {
  RETURN_IF_ERROR(CheckCount(field, strings.size(), limit));
  for (const std::string& string : strings) {
    if (string.empty() || static_cast<int64_t>(string.size()) > limits.stop_bytes_max) {
      return InvalidField(absl::StrCat("sampling.", field),
                          absl::StrCat("a string has ", string.size(), " bytes, not 1 to ",
                                       limits.stop_bytes_max, " (limits.stop_bytes_max)"));
    }
  }
  return absl::OkStatus();
}

// A value above 0 as small as it may be.
constexpr double kTiny = 1e-9;

std::optional<double> First(std::optional<double> a, std::optional<double> b) { return a ? a : b; }

absl::Status CheckLists(const SamplingRequest& request, const RequestLimits& limits) {
  const Limit stops = {"stop_max", limits.stop_max};
  RETURN_IF_ERROR(CheckStrings("stop", request.stop, stops, limits));
  RETURN_IF_ERROR(CheckCount("stop_token_ids", request.stop_token_ids.size(), stops));
  RETURN_IF_ERROR(CheckStrings("bad_words", request.bad_words,
                               {"bad_words_max", limits.bad_words_max}, limits));
  RETURN_IF_ERROR(CheckStrings("dry_sequence_breakers", request.dry_sequence_breakers,
                               {"dry_breakers_max", limits.dry_breakers_max}, limits));
  RETURN_IF_ERROR(CheckCount("logit_bias", request.logit_bias.size(),
                             {"logit_bias_max", limits.logit_bias_max}));
  for (const auto& [id, bias] : request.logit_bias) {
    RETURN_IF_ERROR(CheckRange("logit_bias", bias, -100, 100));
  }
  return absl::OkStatus();
}

absl::Status CheckChoices(const SamplingRequest& request, const RequestLimits& limits) {
  const Limit choices = {"choices_max", limits.choices_max};
  RETURN_IF_ERROR(CheckRange("n", request.n, 1, choices));
  RETURN_IF_ERROR(CheckRange("best_of", request.best_of, 1, choices));
  if (request.best_of && *request.best_of < request.n.value_or(1)) {
    return InvalidField("sampling.best_of",
                        absl::StrCat(*request.best_of, " is below n, ", request.n.value_or(1)));
  }
  return absl::OkStatus();
}

absl::StatusOr<EarlyStopping> ParseEarlyStopping(const std::optional<std::string>& text) {
  if (!text || *text == "false") return EarlyStopping::kNo;
  if (*text == "true") return EarlyStopping::kYes;
  if (*text == "never") return EarlyStopping::kNever;
  return InvalidField("sampling.early_stopping",
                      absl::StrCat("\"", *text, "\" is not \"false\", \"true\" or \"never\""));
}

bool AsksToSample(const SamplingRequest& request) {
  return request.temperature.value_or(0) > 0 || request.top_p || request.top_k || request.min_p ||
         request.typical_p || request.top_n_sigma || request.xtc_probability;
}

// Beam search chooses the likeliest texts: what draws, ranks otherwise or cuts a text has no place
// in it.
absl::Status CheckBeams(const SamplingRequest& request, const RequestLimits& limits) {
  RETURN_IF_ERROR(
      CheckRange("num_beams", request.num_beams, 1, {"choices_max", limits.choices_max}));
  RETURN_IF_ERROR(CheckRange("length_penalty", request.length_penalty, -100, 100));
  RETURN_IF_ERROR(ParseEarlyStopping(request.early_stopping).status());
  const int num_beams = request.num_beams.value_or(1);
  if (num_beams == 1) return absl::OkStatus();
  const int n = request.n.value_or(1);
  if (n > num_beams) {
    return InvalidField("sampling.n", absl::StrCat(n, " is above num_beams, ", num_beams));
  }
  if (request.best_of.value_or(n) != n) {
    return InvalidField("sampling.best_of", "does not go with num_beams");
  }
  if (!request.stop.empty()) return InvalidField("sampling.stop", "does not go with num_beams");
  if (request.max_tokens == 0) {
    return InvalidField("sampling.max_tokens", "is 0, which does not go with num_beams");
  }
  if (AsksToSample(request)) {
    return InvalidField("sampling.num_beams",
                        "does not go with a temperature, top_p, top_k, min_p, typical_p, "
                        "top_n_sigma or xtc_probability: beam search does not sample");
  }
  return absl::OkStatus();
}

DrySampling DryOf(const SamplingRequest& request) {
  DrySampling dry;
  dry.multiplier = request.dry_multiplier.value_or(dry.multiplier);
  dry.base = request.dry_base.value_or(dry.base);
  dry.allowed_length = request.dry_allowed_length.value_or(dry.allowed_length);
  dry.penalty_last_n = request.dry_penalty_last_n;
  return dry;
}

}  // namespace

absl::Status ValidateSampling(const SamplingRequest& request, const RequestLimits& limits) {
  RETURN_IF_ERROR(CheckAtLeast("max_tokens", request.max_tokens, 0));
  RETURN_IF_ERROR(CheckAtLeast("min_tokens", request.min_tokens, 0));
  RETURN_IF_ERROR(CheckRange("temperature", request.temperature, 0, 100));
  RETURN_IF_ERROR(CheckRange("top_p", request.top_p, kTiny, 1));
  RETURN_IF_ERROR(CheckAtLeast("top_k", request.top_k, 0));
  RETURN_IF_ERROR(CheckRange("min_p", request.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("typical_p", request.typical_p, kTiny, 1));
  RETURN_IF_ERROR(CheckRange("top_n_sigma", request.top_n_sigma, 0, 100));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", request.repetition_penalty, kTiny, 100));
  RETURN_IF_ERROR(CheckRange("presence_penalty", request.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", request.frequency_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("dry_multiplier", request.dry_multiplier, 0, 100));
  RETURN_IF_ERROR(CheckRange("dry_base", request.dry_base, 1, 100));
  RETURN_IF_ERROR(CheckAtLeast("dry_allowed_length", request.dry_allowed_length, 1));
  RETURN_IF_ERROR(CheckAtLeast("dry_penalty_last_n", request.dry_penalty_last_n, 1));
  RETURN_IF_ERROR(CheckRange("xtc_probability", request.xtc_probability, 0, 1));
  RETURN_IF_ERROR(CheckRange("xtc_threshold", request.xtc_threshold, 0, 0.5));
  const Limit alternatives = {"logprobs_max", limits.logprobs_max};
  RETURN_IF_ERROR(CheckRange("logprobs", request.logprobs, 0, alternatives));
  RETURN_IF_ERROR(CheckRange("prompt_logprobs", request.prompt_logprobs, 0, alternatives));
  RETURN_IF_ERROR(CheckChoices(request, limits));
  RETURN_IF_ERROR(CheckBeams(request, limits));
  return CheckLists(request, limits);
}

absl::StatusOr<Sampling> DecideSampling(const SamplingRequest& request,
                                        const GenerationDefaults& defaults, int64_t prompt_tokens,
                                        int64_t max_context, const RequestLimits& limits) {
  RETURN_IF_ERROR(ValidateSampling(request, limits));
  const int64_t context_left = max_context - prompt_tokens;
  const int64_t wanted = request.max_tokens.value_or(1);
  if (wanted > context_left) {
    return Error(Reason::kContextLengthExceeded,
                 absl::StrCat("the prompt has ", prompt_tokens, " tokens and max_tokens is ",
                              wanted, "; the context holds ", max_context),
                 {{"prompt_tokens", std::to_string(prompt_tokens)},
                  {"max_tokens", std::to_string(wanted)},
                  {"max_context", std::to_string(max_context)}});
  }
  const std::optional<double> temperature = First(request.temperature, defaults.temperature);
  Sampling out;
  out.num_beams = request.num_beams.value_or(1);
  out.length_penalty = request.length_penalty.value_or(1);
  ASSIGN_OR_RETURN(out.early_stopping, ParseEarlyStopping(request.early_stopping));
  out.greedy = !(AsksToSample(request) || defaults.do_sample.value_or(false)) ||
               (temperature && *temperature == 0) || out.num_beams > 1;
  out.temperature = out.greedy ? 1 : temperature.value_or(1);
  out.top_p = First(request.top_p, defaults.top_p).value_or(1);
  out.top_k = request.top_k ? *request.top_k : defaults.top_k.value_or(0);
  out.min_p = First(request.min_p, defaults.min_p).value_or(0);
  out.repetition_penalty =
      First(request.repetition_penalty, defaults.repetition_penalty).value_or(1);
  out.presence_penalty = request.presence_penalty.value_or(0);
  out.frequency_penalty = request.frequency_penalty.value_or(0);
  out.seed = request.seed;
  out.stop = request.stop;
  out.logprobs = request.logprobs;
  out.ignore_eos = request.ignore_eos.value_or(false);
  out.max_tokens = request.max_tokens.value_or(
      std::min(context_left, defaults.max_new_tokens.value_or(context_left)));
  out.min_tokens = request.min_tokens.value_or(0);
  if (out.min_tokens > out.max_tokens) {
    return InvalidField("sampling.min_tokens",
                        absl::StrCat(out.min_tokens, " is above max_tokens, ", out.max_tokens));
  }
  out.typical_p = First(request.typical_p, defaults.typical_p).value_or(1);
  out.top_n_sigma = request.top_n_sigma.value_or(0);
  out.logit_bias = request.logit_bias;
  out.allowed_token_ids = request.allowed_token_ids;
  out.stop_token_ids = request.stop_token_ids;
  out.dry = DryOf(request);
  out.xtc_probability = request.xtc_probability.value_or(out.xtc_probability);
  out.xtc_threshold = request.xtc_threshold.value_or(out.xtc_threshold);
  out.n = request.n.value_or(1);
  out.best_of = request.best_of.value_or(out.n);
  out.prompt_logprobs = request.prompt_logprobs;
  return out;
}

}  // namespace modeld
