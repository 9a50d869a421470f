// What stands between a model's logits and the token that is drawn, as functions of plain numbers.
//
// The order is that of transformers' GenerationMixin._get_logits_processor, with what only others
// have put beside its like:
//   on scores      logit_bias, repetition_penalty, frequency and presence penalty (OpenAI), DRY,
//                  bad_words, min_tokens, allowed_token_ids, the mask of a grammar
//   on candidates  temperature, top_n_sigma (as on raw logits: dividing moves no token over the
//                  threshold), top_k, top_p, min_p, typical_p, XTC
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <unordered_map>
#include <vector>

#include "server/core/sampling.h"

namespace modeld {

// transformers' SequenceBiasLogitsProcessor for single tokens, and OpenAI's logit_bias. Here and
// below, ids outside the scores do nothing.
void AddLogitBias(const std::map<int64_t, double>& bias_by_token, std::span<float> scores);

// How often a token stands in the answer; 0 for one of the prompt alone.
using TokenCounts = std::unordered_map<int64_t, int64_t>;

// transformers' RepetitionPenaltyLogitsProcessor (Keskar et al., CTRL, 2019), then OpenAI's two:
// logit -= count * frequency + (count > 0) * presence.
void PenaliseCounted(const Sampling& sampling, const TokenCounts& counts, std::span<float> scores);

// DRY (p-e-w, "DRY: A modern repetition penalty that reliably prevents looping", 2024): a token
// that would prolong a repetition of `n` tokens, n >= allowed_length, loses
// multiplier * base^(n - allowed_length). A repetition does not reach over a breaker.
void PenaliseDry(const DrySampling& dry, std::span<const int64_t> tokens, std::span<float> scores);

// transformers' NoBadWordsLogitsProcessor: the last token of a word whose other tokens are the last
// of `tokens` cannot follow.
void BanBadWords(const std::vector<std::vector<int64_t>>& bad_words,
                 std::span<const int64_t> tokens, std::span<float> scores);

// As transformers' MinNewTokensLengthLogitsProcessor does with the ends of a sequence.
void BanTokens(std::span<const int64_t> ids, std::span<float> scores);

// transformers' PrefixConstrainedLogitsProcessor with one list for all positions.
void KeepAllowed(std::span<const int64_t> ids, std::span<float> scores);

// What the structure of an answer leaves for the next token.
struct TokenRules {
  // A bit for each id, 32 to a word; empty: everything goes. Has the ends where they may come.
  std::span<const uint32_t> mask;
  bool may_end = true;  // whether a token that ends the answer may come, and is its end
};

// The same with a mask; what lies behind its last word goes.
void KeepMasked(std::span<const uint32_t> mask, std::span<float> scores);

// A token that may be drawn.
struct Candidate {
  int64_t token_id = 0;
  double weight = 0;  // probability relative to the likeliest, which has 1
};

// In order of token id, here and after each filter. transformers' TemperatureLogitsWarper, then
// softmax without its division; relative to the highest score nothing overflows at a temperature
// near 0. `top_k` > 0 keeps what is not below the k-th highest score (TopKLogitsWarper; ties
// stay), top_n_sigma > 0 what is at most so many standard deviations below the highest (Tang et
// al., "Top-nsigma: Not All Logits Are You Need", 2024; of the scores above -Inf).
void CandidatesOf(std::span<const float> scores, const Sampling& sampling,
                  std::vector<Candidate>& out);

// transformers' TopPLogitsWarper: the smallest set of likeliest tokens that has at least `top_p` of
// the probability, never empty. Of equally likely ones the first stay.
void KeepTopP(double top_p, std::vector<Candidate>& candidates);

// transformers' MinPLogitsWarper: out goes what is below `min_p` times the likeliest.
void KeepMinP(double min_p, std::vector<Candidate>& candidates);

// transformers' TypicalLogitsWarper (Meister et al., "Locally Typical Sampling", 2022): the
// smallest set of tokens nearest in information to the entropy that has at least `mass` of the
// probability. May drop the likeliest.
void KeepTypical(double mass, std::vector<Candidate>& candidates);

// XTC (p-e-w, "Exclude Top Choices", 2024): of the tokens with at least `threshold` probability
// only the least likely stays, when there are two or more. The caller has thrown the dice.
void ExcludeTopChoices(double threshold, std::vector<Candidate>& candidates);

// The first token, in order of id, at which the running share of the weights exceeds `unit`, which
// is in [0, 1). `candidates` is not empty.
int64_t DrawAt(double unit, std::span<const Candidate> candidates);

}  // namespace modeld
