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

absl::Status CheckCount(const char* field, size_t count, int64_t count_max) {
  if (static_cast<int64_t>(count) <= count_max) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field),
                      absl::StrCat("has ", count, " entries, at most ", count_max, " are allowed"));
}

absl::Status CheckStrings(const char* field, const std::vector<std::string>& strings,
                          int64_t count_max, int64_t bytes_max) {
  RETURN_IF_ERROR(CheckCount(field, strings.size(), count_max));
  for (const std::string& string : strings) {
    if (string.empty() || static_cast<int64_t>(string.size()) > bytes_max) {
      return InvalidField(
          absl::StrCat("sampling.", field),
          absl::StrCat("a string has ", string.size(), " bytes, not 1 to ", bytes_max));
    }
  }
  return absl::OkStatus();
}

// A value above 0 as small as it may be.
constexpr double kTiny = 1e-9;

std::optional<double> First(std::optional<double> a, std::optional<double> b) { return a ? a : b; }

absl::Status CheckLists(const SamplingRequest& request, const SamplingLimits& limits) {
  RETURN_IF_ERROR(CheckStrings("stop", request.stop, limits.stop_max, limits.stop_bytes_max));
  RETURN_IF_ERROR(CheckCount("stop_token_ids", request.stop_token_ids.size(), limits.stop_max));
  RETURN_IF_ERROR(
      CheckStrings("bad_words", request.bad_words, limits.bad_words_max, limits.stop_bytes_max));
  RETURN_IF_ERROR(CheckStrings("dry_sequence_breakers", request.dry_sequence_breakers,
                               limits.dry_breakers_max, limits.stop_bytes_max));
  RETURN_IF_ERROR(CheckCount("logit_bias", request.logit_bias.size(), limits.logit_bias_max));
  for (const auto& [id, bias] : request.logit_bias) {
    RETURN_IF_ERROR(CheckRange("logit_bias", bias, -100, 100));
  }
  return absl::OkStatus();
}

bool AsksToSample(const SamplingRequest& request) {
  return request.temperature.value_or(0) > 0 || request.top_p || request.top_k || request.min_p ||
         request.typical_p || request.top_n_sigma || request.xtc_probability;
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

absl::Status ValidateSampling(const SamplingRequest& request, const SamplingLimits& limits) {
  RETURN_IF_ERROR(CheckAtLeast("max_tokens", request.max_tokens, 1));
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
  RETURN_IF_ERROR(
      CheckRange("logprobs", request.logprobs, 0, static_cast<double>(limits.logprobs_max)));
  return CheckLists(request, limits);
}

absl::StatusOr<Sampling> DecideSampling(const SamplingRequest& request,
                                        const GenerationDefaults& defaults, int64_t prompt_tokens,
                                        int64_t max_context, const SamplingLimits& limits) {
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
  out.greedy = !(AsksToSample(request) || defaults.do_sample.value_or(false)) ||
               (temperature && *temperature == 0);
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
  return out;
}

}  // namespace modeld
