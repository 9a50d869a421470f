#include "server/engine/batch/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// SplitMix64's mixing function (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators,
// 2014).
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Uniform in [0, 1), a function of its arguments alone.
double UnitAt(uint64_t seed, uint64_t position) {
  return static_cast<double>(Mix(Mix(seed) ^ position) >> 11) * 0x1p-53;
}

absl::Status CheckLogits(std::span<const float> logits) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  float highest = -std::numeric_limits<float>::infinity();
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

Sampler::Sampler(const Sampling& sampling, std::span<const int64_t> prompt, uint64_t seed)
    : sampling_(sampling), seed_(seed) {
  // Only the repetition penalty looks at the prompt.
  if (sampling_.repetition_penalty != 1) {
    for (const int64_t id : prompt) counts_[id] = 0;
  }
}

absl::StatusOr<SampledToken> Sampler::Next(std::span<const float> logits) {
  RETURN_IF_ERROR(CheckLogits(logits));
  scores_.assign(logits.begin(), logits.end());
  Penalise();
  SampledToken out;
  out.token_id = sampling_.greedy ? ArgMax(scores_) : Draw();
  if (sampling_.logprobs) out.logprobs = Logprobs(logits, out.token_id);
  ++counts_[out.token_id];
  ++position_;
  return out;
}

// repetition_penalty as in transformers' RepetitionPenaltyLogitsProcessor (Keskar et al., CTRL,
// 2019); the other two as OpenAI's API documents them: logit -= count * frequency + (count > 0) *
// presence.
void Sampler::Penalise() {
  const auto repetition = static_cast<float>(sampling_.repetition_penalty);
  for (const auto& [id, count] : counts_) {
    if (id < 0 || id >= std::ssize(scores_)) continue;
    float& score = scores_[id];
    score = score < 0 ? score * repetition : score / repetition;
    if (count == 0) continue;
    score -= static_cast<float>(static_cast<double>(count) * sampling_.frequency_penalty +
                                sampling_.presence_penalty);
  }
}

int64_t Sampler::Draw() {
  const float highest = *std::max_element(scores_.begin(), scores_.end());
  candidates_.clear();
  for (size_t i = 0; i < scores_.size(); ++i) {
    // transformers' TemperatureLogitsWarper: scores / temperature, then softmax. Relative to the
    // highest score nothing overflows at a temperature near 0.
    const double weight =
        std::exp((static_cast<double>(scores_[i]) - highest) / sampling_.temperature);
    if (weight > 0) candidates_.push_back({static_cast<int64_t>(i), weight});
  }
  KeepTopK();
  KeepTopP();
  // transformers' MinPLogitsWarper: out goes what is below min_p times the likeliest, whose weight
  // is 1.
  std::erase_if(candidates_, [this](const Candidate& c) { return c.weight < sampling_.min_p; });

  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  double left = UnitAt(seed_, position_) * total;
  for (const Candidate& c : candidates_) {
    left -= c.weight;
    if (left < 0) return c.token_id;
  }
  return candidates_.back().token_id;  // rounding
}

// transformers' TopKLogitsWarper: out goes what is below the k-th highest; ties with it stay.
void Sampler::KeepTopK() {
  const int64_t k = sampling_.top_k;
  if (k <= 0 || k >= std::ssize(candidates_)) return;
  std::vector<Candidate> by_weight = candidates_;
  std::nth_element(by_weight.begin(), by_weight.begin() + (k - 1), by_weight.end(),
                   [](const Candidate& a, const Candidate& b) { return a.weight > b.weight; });
  const double lowest = by_weight[k - 1].weight;
  std::erase_if(candidates_, [lowest](const Candidate& c) { return c.weight < lowest; });
}

// transformers' TopPLogitsWarper: the smallest set of likeliest tokens that has at least top_p of
// the probability left by top_k, never empty. A heap, since the set is small and the vocabulary is
// not.
void Sampler::KeepTopP() {
  if (sampling_.top_p >= 1) return;
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.weight < b.weight || (a.weight == b.weight && a.token_id > b.token_id);
  };
  double total = 0;
  for (const Candidate& c : candidates_) total += c.weight;
  std::make_heap(candidates_.begin(), candidates_.end(), likelier);
  auto heap_end = candidates_.end();
  double kept = 0;
  do {
    std::pop_heap(candidates_.begin(), heap_end, likelier);
    --heap_end;
    kept += heap_end->weight;
  } while (kept < sampling_.top_p * total && heap_end != candidates_.begin());
  // What was popped stands at the back, the likeliest last.
  candidates_.erase(candidates_.begin(), heap_end);
  std::reverse(candidates_.begin(), candidates_.end());
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
  std::vector<int64_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + top, ids.end(), [&](int64_t a, int64_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  for (int64_t i = 0; i < top; ++i) {
    out.top.push_back({ids[i], static_cast<double>(logits[ids[i]]) - log_total});
  }
  return out;
}

}  // namespace modeld
