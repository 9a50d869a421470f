#include "server/engine/batch/logits_processors.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <limits>
#include <utility>

namespace modeld {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

bool IsIn(std::span<const float> scores, int64_t id) { return id >= 0 && id < std::ssize(scores); }

double TotalWeight(std::span<const Candidate> candidates) {
  double total = 0;
  for (const Candidate& c : candidates) total += c.weight;
  return total;
}

// The lowest of the scores that top_k and top_n_sigma leave.
float LowestKept(std::span<const float> scores, const Sampling& sampling, float highest) {
  float lowest = kNever;
  if (sampling.top_n_sigma > 0) {
    double count = 0;
    double sum = 0;
    for (const float x : scores) {
      if (x == kNever) continue;
      ++count;
      sum += x;
    }
    const double mean = sum / count;
    double squares = 0;
    for (const float x : scores) {
      if (x != kNever) squares += (x - mean) * (x - mean);
    }
    lowest = static_cast<float>(highest - sampling.top_n_sigma * std::sqrt(squares / count));
  }
  if (sampling.top_k > 0 && sampling.top_k < std::ssize(scores)) {
    // A heap of the k highest so far: k is small and the vocabulary is not.
    std::vector<float> top(scores.begin(), scores.begin() + sampling.top_k);
    std::ranges::make_heap(top, std::greater<>());
    for (const float x : scores.subspan(sampling.top_k)) {
      if (x <= top.front()) continue;
      std::ranges::pop_heap(top, std::greater<>());
      top.back() = x;
      std::ranges::push_heap(top, std::greater<>());
    }
    lowest = std::max(lowest, top.front());
  }
  return lowest;
}

}  // namespace

void AddLogitBias(const std::map<int64_t, double>& bias_by_token, std::span<float> scores) {
  for (const auto& [id, bias] : bias_by_token) {
    if (IsIn(scores, id)) scores[id] += static_cast<float>(bias);
  }
}

void PenaliseCounted(const Sampling& sampling, const TokenCounts& counts, std::span<float> scores) {
  const auto repetition = static_cast<float>(sampling.repetition_penalty);
  for (const auto& [id, count] : counts) {
    if (!IsIn(scores, id)) continue;
    float& score = scores[id];
    score = score < 0 ? score * repetition : score / repetition;
    if (count == 0) continue;
    score -= static_cast<float>(static_cast<double>(count) * sampling.frequency_penalty +
                                sampling.presence_penalty);
  }
}

// Lengths of repetitions by the Z algorithm (Gusfield) on the reversed tokens: matched[i] is how
// many tokens before position i from the end equal the last ones.
void PenaliseDry(const DrySampling& dry, std::span<const int64_t> tokens, std::span<float> scores) {
  if (dry.multiplier == 0) return;
  if (dry.penalty_last_n && *dry.penalty_last_n < std::ssize(tokens)) {
    tokens = tokens.last(*dry.penalty_last_n);
  }
  const auto is_breaker = [&dry](int64_t id) {
    return std::ranges::find(dry.breaker_token_ids, id) != dry.breaker_token_ids.end();
  };
  const int64_t size = std::ssize(tokens);
  const auto from_end = [&](int64_t i) { return tokens[size - 1 - i]; };
  int64_t longest = 0;
  while (longest < size && !is_breaker(from_end(longest))) ++longest;

  std::vector<int64_t> matched(size);
  std::unordered_map<int64_t, int64_t> repeated;  // by the token that would prolong it
  for (int64_t i = 1, left = 0, right = 0; i < size; ++i) {
    int64_t n = i < right ? std::min(right - i, matched[i - left]) : 0;
    while (i + n < size && from_end(n) == from_end(i + n)) ++n;
    matched[i] = n;
    if (i + n > right) {
      left = i;
      right = i + n;
    }
    const int64_t next = from_end(i - 1);
    const int64_t length = std::min(n, longest);
    if (length >= dry.allowed_length && !is_breaker(next)) {
      int64_t& most = repeated[next];
      most = std::max(most, length);
    }
  }
  constexpr double kPenaltyMax = 1e30;  // keeps the score finite
  for (const auto& [id, length] : repeated) {
    if (!IsIn(scores, id)) continue;
    const double penalty =
        dry.multiplier * std::pow(dry.base, static_cast<double>(length - dry.allowed_length));
    scores[id] -= static_cast<float>(std::min(penalty, kPenaltyMax));
  }
}

void BanBadWords(const std::vector<std::vector<int64_t>>& bad_words,
                 std::span<const int64_t> tokens, std::span<float> scores) {
  for (const std::vector<int64_t>& word : bad_words) {
    if (word.empty() || word.size() - 1 > tokens.size()) continue;
    const auto before = std::span(word).first(word.size() - 1);
    if (std::ranges::equal(before, tokens.last(before.size()))) {
      BanTokens(std::span(word).last(1), scores);
    }
  }
}

void BanTokens(std::span<const int64_t> ids, std::span<float> scores) {
  for (const int64_t id : ids) {
    if (IsIn(scores, id)) scores[id] = kNever;
  }
}

void KeepAllowed(std::span<const int64_t> ids, std::span<float> scores) {
  std::vector<std::pair<int64_t, float>> kept;
  kept.reserve(ids.size());
  for (const int64_t id : ids) {
    if (IsIn(scores, id)) kept.emplace_back(id, scores[id]);
  }
  std::ranges::fill(scores, kNever);
  for (const auto& [id, score] : kept) scores[id] = score;
}

void KeepMasked(std::span<const uint32_t> mask, std::span<float> scores) {
  constexpr size_t kWordBits = 32;
  for (size_t begin = 0; begin < scores.size(); begin += kWordBits) {
    const auto part = scores.subspan(begin, std::min(kWordBits, scores.size() - begin));
    const uint32_t word = begin / kWordBits < mask.size() ? mask[begin / kWordBits] : 0;
    if (word == 0) {
      std::ranges::fill(part, kNever);
      continue;
    }
    for (size_t i = 0; i < part.size(); ++i) {
      if (((word >> i) & 1) == 0) part[i] = kNever;
    }
  }
}

void CandidatesOf(std::span<const float> scores, const Sampling& sampling,
                  std::vector<Candidate>& out) {
  const float highest = *std::ranges::max_element(scores);
  const float lowest = LowestKept(scores, sampling, highest);
  out.clear();
  for (size_t i = 0; i < scores.size(); ++i) {
    if (scores[i] < lowest || scores[i] == kNever) continue;
    const double weight =
        std::exp((static_cast<double>(scores[i]) - highest) / sampling.temperature);
    if (weight > 0) out.push_back({static_cast<int64_t>(i), weight});
  }
}

void KeepTopP(double top_p, std::vector<Candidate>& candidates) {
  if (top_p >= 1) return;
  // A heap, since the set that stays is small and the vocabulary is not.
  const auto less_likely = [](const Candidate& a, const Candidate& b) {
    return a.weight < b.weight || (a.weight == b.weight && a.token_id > b.token_id);
  };
  const double wanted = top_p * TotalWeight(candidates);
  std::ranges::make_heap(candidates, less_likely);
  auto heap_end = candidates.end();
  double kept = 0;
  do {
    std::pop_heap(candidates.begin(), heap_end, less_likely);
    --heap_end;
    kept += heap_end->weight;
  } while (kept < wanted && heap_end != candidates.begin());
  candidates.erase(candidates.begin(), heap_end);
  std::ranges::sort(candidates, {}, &Candidate::token_id);
}

void KeepMinP(double min_p, std::vector<Candidate>& candidates) {
  if (min_p <= 0) return;
  const double highest = std::ranges::max_element(candidates, {}, &Candidate::weight)->weight;
  std::erase_if(candidates, [&](const Candidate& c) { return c.weight < min_p * highest; });
}

void KeepTypical(double mass, std::vector<Candidate>& candidates) {
  if (mass >= 1) return;
  const double total = TotalWeight(candidates);
  double entropy = 0;
  for (const Candidate& c : candidates) entropy -= c.weight / total * std::log(c.weight / total);
  struct Distance {
    double from_entropy;
    double weight;
  };
  const auto distance = [&](double weight) {
    return std::abs(-std::log(weight / total) - entropy);
  };
  std::vector<Distance> nearest;
  nearest.reserve(candidates.size());
  for (const Candidate& c : candidates) nearest.push_back({distance(c.weight), c.weight});
  std::ranges::sort(nearest, {}, &Distance::from_entropy);
  double kept = 0;
  size_t last = 0;
  for (; last + 1 < nearest.size(); ++last) {
    kept += nearest[last].weight;
    if (kept >= mass * total) break;
  }
  const double farthest = nearest[last].from_entropy;
  std::erase_if(candidates, [&](const Candidate& c) { return distance(c.weight) > farthest; });
}

void ExcludeTopChoices(double threshold, std::vector<Candidate>& candidates) {
  const double least = threshold * TotalWeight(candidates);
  const Candidate* stays = nullptr;
  int64_t count = 0;
  for (const Candidate& c : candidates) {
    if (c.weight < least) continue;
    ++count;
    if (stays == nullptr || c.weight < stays->weight) stays = &c;
  }
  if (count < 2) return;
  const int64_t stays_id = stays->token_id;
  std::erase_if(candidates,
                [&](const Candidate& c) { return c.weight >= least && c.token_id != stays_id; });
}

int64_t DrawAt(double unit, std::span<const Candidate> candidates) {
  double left = unit * TotalWeight(candidates);
  for (const Candidate& c : candidates) {
    left -= c.weight;
    if (left < 0) return c.token_id;
  }
  return candidates.back().token_id;  // rounding
}

}  // namespace modeld
