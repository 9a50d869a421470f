#include "server/engine/batch/logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "server/core/reason.h"

namespace modeld {

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

PositionLogprobs LogprobsOf(std::span<const float> logits, int64_t chosen, int64_t top) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x) - highest);
  const double log_total = highest + std::log(sum);
  PositionLogprobs out;
  out.chosen = {chosen, static_cast<double>(logits[chosen]) - log_total};
  top = std::min<int64_t>(top, std::ssize(logits));
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
