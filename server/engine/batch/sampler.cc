#include "server/engine/batch/sampler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"
#include "server/engine/batch/logits.h"
#include "server/engine/batch/random.h"

namespace modeld {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

int64_t ArgMax(std::span<const float> scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

}  // namespace

Sampler::Sampler(const Sampling& sampling, Options options)
    : sampling_(sampling),
      options_(std::move(options)),
      counts_tokens_(sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
                     sampling.frequency_penalty != 0) {}

absl::StatusOr<SampledToken> Sampler::Next(std::span<const int64_t> tokens,
                                           std::span<const float> logits, const TokenRules& rules) {
  RETURN_IF_ERROR(CheckLogits(logits));
  const int64_t answered = std::ssize(tokens) - options_.prompt_tokens;
  const std::span<const float> scores = Scores(tokens, logits, rules);
  if (std::ranges::all_of(scores, [](float x) { return x == kNever; })) {
    return NothingLeft(answered, rules);
  }
  SampledToken out;
  out.token_id = sampling_.greedy ? ArgMax(scores) : Draw(scores, answered);
  if (sampling_.logprobs || sampling_.ranks_choices()) {
    out.logprobs = LogprobsOf(logits, out.token_id, sampling_.logprobs.value_or(0));
  }
  return out;
}

std::span<const float> Sampler::Scores(std::span<const int64_t> tokens,
                                       std::span<const float> scores, const TokenRules& rules) {
  const int64_t answered = std::ssize(tokens) - options_.prompt_tokens;
  if (!ChangesScores(answered, rules)) return scores;
  scores_.assign(scores.begin(), scores.end());
  Process(tokens, answered, rules);
  return scores_;
}

absl::StatusOr<SampledToken> Sampler::Take(int64_t token_id, std::span<const float> logits) const {
  RETURN_IF_ERROR(CheckLogits(logits));
  SampledToken out{.token_id = token_id};
  if (sampling_.logprobs) out.logprobs = LogprobsOf(logits, token_id, *sampling_.logprobs);
  return out;
}

bool Sampler::ChangesScores(int64_t answered, const TokenRules& rules) const {
  return !rules.mask.empty() || !rules.may_end || counts_tokens_ || !sampling_.logit_bias.empty() ||
         sampling_.dry.multiplier != 0 || !sampling_.bad_words.empty() ||
         answered < sampling_.min_tokens || !sampling_.allowed_token_ids.empty();
}

absl::Status Sampler::NothingLeft(int64_t answered, const TokenRules& rules) const {
  const char* field = "sampling.bad_words";
  if (!rules.mask.empty()) field = "structure";
  if (!sampling_.allowed_token_ids.empty()) field = "sampling.allowed_token_ids";
  return InvalidField(field,
                      absl::StrCat("leaves no token for position ", answered, " of the answer"));
}

// Only the repetition penalty looks at the prompt.
void Sampler::CountNew(std::span<const int64_t> tokens) {
  for (; counted_ < std::ssize(tokens); ++counted_) {
    const bool in_prompt = counted_ < options_.prompt_tokens;
    if (in_prompt && sampling_.repetition_penalty == 1) continue;
    counts_[tokens[counted_]] += in_prompt ? 0 : 1;
  }
}

void Sampler::Process(std::span<const int64_t> tokens, int64_t answered, const TokenRules& rules) {
  AddLogitBias(sampling_.logit_bias, scores_);
  if (counts_tokens_) {
    CountNew(tokens);
    PenaliseCounted(sampling_, counts_, scores_);
  }
  PenaliseDry(sampling_.dry, tokens, scores_);
  BanBadWords(sampling_.bad_words, tokens, scores_);
  if (answered < sampling_.min_tokens || (rules.mask.empty() && !rules.may_end)) {
    BanTokens(options_.end_token_ids, scores_);
  }
  if (!sampling_.allowed_token_ids.empty()) KeepAllowed(sampling_.allowed_token_ids, scores_);
  if (!rules.mask.empty()) KeepMasked(rules.mask, scores_);
}

int64_t Sampler::Draw(std::span<const float> scores, int64_t answered) {
  const UnitPair units = UnitsAt(options_.seed, options_.choice, answered);
  CandidatesOf(scores, sampling_, candidates_);
  KeepTopP(sampling_.top_p, candidates_);
  KeepMinP(sampling_.min_p, candidates_);
  KeepTypical(sampling_.typical_p, candidates_);
  if (units.second < sampling_.xtc_probability) {
    ExcludeTopChoices(sampling_.xtc_threshold, candidates_);
  }
  return DrawAt(units.first, candidates_);
}

}  // namespace modeld
