#include "server/engine/sampling_tokens.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

absl::Status CheckIds(const char* field, std::span<const int64_t> ids, int64_t vocab_size) {
  if (std::ssize(ids) > vocab_size) {
    return InvalidField(
        absl::StrCat("sampling.", field),
        absl::StrCat("has ", ids.size(), " entries; the model has ", vocab_size, " tokens"));
  }
  for (const int64_t id : ids) {
    if (id >= 0 && id < vocab_size) continue;
    return InvalidField(absl::StrCat("sampling.", field),
                        absl::StrCat(id, " is not a token of the model, which has ", vocab_size));
  }
  return absl::OkStatus();
}

// A word's tokens differ with its place: as a text of its own and after a space.
absl::Status AddBadWord(const std::string& word, const Tokenizer& tokenizer, Sampling& sampling) {
  for (const std::string& spelling : {word, " " + word}) {
    ASSIGN_OR_RETURN(std::vector<int64_t> ids,
                     tokenizer.Encode(spelling, /*add_special_tokens=*/false));
    if (ids.empty() || std::ranges::count(sampling.bad_words, ids) > 0) continue;
    sampling.bad_words.push_back(std::move(ids));
  }
  return absl::OkStatus();
}

// The token with which the text ends after other text.
absl::Status AddBreaker(const std::string& breaker, const Tokenizer& tokenizer, DrySampling& dry) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                   tokenizer.Encode("a" + breaker, /*add_special_tokens=*/false));
  if (!ids.empty()) dry.breaker_token_ids.push_back(ids.back());
  return absl::OkStatus();
}

}  // namespace

absl::Status AddTokens(const SamplingRequest& request, const Tokenizer& tokenizer,
                       int64_t vocab_size, Sampling& sampling) {
  std::vector<int64_t> biased;
  for (const auto& [id, bias] : request.logit_bias) biased.push_back(id);
  RETURN_IF_ERROR(CheckIds("logit_bias", biased, vocab_size));
  RETURN_IF_ERROR(CheckIds("allowed_token_ids", request.allowed_token_ids, vocab_size));
  RETURN_IF_ERROR(CheckIds("stop_token_ids", request.stop_token_ids, vocab_size));
  for (const std::string& word : request.bad_words) {
    RETURN_IF_ERROR(AddBadWord(word, tokenizer, sampling));
  }
  if (sampling.dry.multiplier == 0) return absl::OkStatus();
  std::vector<std::string> breakers = request.dry_sequence_breakers;
  if (breakers.empty()) breakers = {"\n", ":", "\"", "*"};
  for (const std::string& breaker : breakers) {
    RETURN_IF_ERROR(AddBreaker(breaker, tokenizer, sampling.dry));
  }
  return absl::OkStatus();
}

}  // namespace modeld
