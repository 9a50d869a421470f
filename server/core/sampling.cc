#include "server/core/sampling.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

absl::Status CheckRange(const char* field, std::optional<double> value, double low, double high) {
  if (!value || (std::isfinite(*value) && *value >= low && *value <= high)) return absl::OkStatus();
  return InvalidField(absl::StrCat("sampling.", field).c_str(),
                      absl::StrCat(*value, " is not between ", low, " and ", high));
}

// A value above 0 as small as it may be.
constexpr double kTiny = 1e-9;

std::optional<double> First(std::optional<double> a, std::optional<double> b) { return a ? a : b; }

}  // namespace

absl::Status ValidateSampling(const SamplingRequest& request) {
  if (request.max_tokens && *request.max_tokens < 1) {
    return InvalidField("sampling.max_tokens", absl::StrCat(*request.max_tokens, " is below 1"));
  }
  RETURN_IF_ERROR(CheckRange("temperature", request.temperature, 0, 100));
  RETURN_IF_ERROR(CheckRange("top_p", request.top_p, kTiny, 1));
  if (request.top_k && *request.top_k < 0) {
    return InvalidField("sampling.top_k", absl::StrCat(*request.top_k, " is below 0"));
  }
  RETURN_IF_ERROR(CheckRange("min_p", request.min_p, 0, 1));
  RETURN_IF_ERROR(CheckRange("repetition_penalty", request.repetition_penalty, kTiny, 100));
  RETURN_IF_ERROR(CheckRange("presence_penalty", request.presence_penalty, -2, 2));
  RETURN_IF_ERROR(CheckRange("frequency_penalty", request.frequency_penalty, -2, 2));
  if (request.stop.size() > 16) return InvalidField("sampling.stop", "more than 16 strings");
  for (const std::string& stop : request.stop) {
    if (stop.empty() || stop.size() > 1000) {
      return InvalidField("sampling.stop", "a string is not 1 to 1000 bytes long");
    }
  }
  if (request.logprobs && (*request.logprobs < 0 || *request.logprobs > 20)) {
    return InvalidField("sampling.logprobs", absl::StrCat(*request.logprobs, " is not 0 to 20"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Sampling> DecideSampling(const SamplingRequest& request,
                                        const GenerationDefaults& defaults, int64_t prompt_tokens,
                                        int64_t max_context) {
  RETURN_IF_ERROR(ValidateSampling(request));
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
  const bool asks_to_sample =
      request.temperature.value_or(0) > 0 || request.top_p || request.top_k || request.min_p;
  const std::optional<double> temperature = First(request.temperature, defaults.temperature);
  Sampling out;
  out.greedy =
      !(asks_to_sample || defaults.do_sample.value_or(false)) || (temperature && *temperature == 0);
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
  return out;
}

}  // namespace modeld
