#include "server/engine/batch/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"
#include "server/engine/batch/random.h"

namespace modeld {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

absl::Status CheckLogits(std::span<const float> logits) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  float highest = kNever;
  bool all_at_most_largest = true;  // false for NaN and +Inf
  for (const float x : logits) {
    all_at_most_largest &= x <= kLargest;
    highest = x > highest ? x : highest;
  }
  if (all_at_most_largest && highest >= -kLargest) return absl::OkStatus();
  return Error(Reason::kInternal, all_at_most_largest
                                      ? "the model gave no token a probability"
                                      : "the model computed logits that are NaN or infinite");
}

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
                                           std::span<const float> logits) {
  RETURN_IF_ERROR(CheckLogits(logits));
  const int64_t answered = std::ssize(tokens) - options_.prompt_tokens;
  std::span<const float> scores = logits;
  if (ChangesScores(answered)) {
    scores_.assign(logits.begin(), logits.end());
    Process(tokens, answered);
    scores = scores_;
    if (std::ranges::all_of(scores, [](float x) { return x == kNever; })) {
      return InvalidField(
          sampling_.allowed_token_ids.empty() ? "sampling.bad_words" : "sampling.allowed_token_ids",
          absl::StrCat("leaves no token for position ", answered, " of the answer"));
    }
  }
  SampledToken out;
  out.token_id = sampling_.greedy ? ArgMax(scores) : Draw(scores, answered);
  if (sampling_.logprobs) out.logprobs = Logprobs(logits, out.token_id);
  return out;
}

bool Sampler::ChangesScores(int64_t answered) const {
  return counts_tokens_ || !sampling_.logit_bias.empty() || sampling_.dry.multiplier != 0 ||
         !sampling_.bad_words.empty() || answered < sampling_.min_tokens ||
         !sampling_.allowed_token_ids.empty();
}

// Only the repetition penalty looks at the prompt.
void Sampler::CountNew(std::span<const int64_t> tokens) {
  for (; counted_ < std::ssize(tokens); ++counted_) {
    const bool in_prompt = counted_ < options_.prompt_tokens;
    if (in_prompt && sampling_.repetition_penalty == 1) continue;
    counts_[tokens[counted_]] += in_prompt ? 0 : 1;
  }
}

void Sampler::Process(std::span<const int64_t> tokens, int64_t answered) {
  AddLogitBias(sampling_.logit_bias, scores_);
  if (counts_tokens_) {
    CountNew(tokens);
    PenaliseCounted(sampling_, counts_, scores_);
  }
  PenaliseDry(sampling_.dry, tokens, scores_);
  BanBadWords(sampling_.bad_words, tokens, scores_);
  if (answered < sampling_.min_tokens) BanTokens(options_.end_token_ids, scores_);
  if (!sampling_.allowed_token_ids.empty()) KeepAllowed(sampling_.allowed_token_ids, scores_);
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

PositionLogprobs Sampler::Logprobs(std::span<const float> logits, int64_t chosen) const {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  const double log_total = highest + std::log(sum);
  PositionLogprobs out;
  out.chosen = {chosen, static_cast<double>(logits[chosen]) - log_total};
  const auto top = std::min<int64_t>(*sampling_.logprobs, std::ssize(logits));
  if (top == 0) return out;
  const auto likelier = [logits](int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  };
  std::vector<int64_t> ids(top);  // a heap whose front is the least likely
  std::iota(ids.begin(), ids.end(), 0);
  std::ranges::make_heap(ids, likelier);
  for (int64_t id = top; id < std::ssize(logits); ++id) {
    if (!likelier(id, ids.front())) continue;
    std::ranges::pop_heap(ids, likelier);
    ids.back() = id;
    std::ranges::push_heap(ids, likelier);
  }
  std::ranges::sort(ids, likelier);
  for (const int64_t id : ids) out.top.push_back({id, static_cast<double>(logits[id]) - log_total});
  return out;
}

}  // namespace modeld
