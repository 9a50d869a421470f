#include "server/engines/stats_metrics.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

namespace modeld {
namespace {

namespace enginepb = modeld::engine::v1;

using Finished = std::map<std::pair<std::string, std::string>, int64_t>;

Finished FinishedOf(const enginepb::StatsResponse& stats) {
  Finished counts;
  for (const auto& entry : stats.finished()) {
    counts[{entry.method(), entry.finish_reason()}] = entry.count();
  }
  return counts;
}

// Adds the observations that `now` has beyond `before`. A bucket goes where its upper bound
// belongs, so that an engine with other bounds is counted too, only more coarsely.
void AddObservations(const enginepb::Histogram& now, const enginepb::Histogram& before,
                     const std::vector<double>& bounds, prometheus::Histogram& histogram) {
  std::vector<double> increments(bounds.size() + 1, 0.0);
  bool any = false;
  for (int i = 0; i < now.counts_size(); ++i) {
    const int64_t earlier = i < before.counts_size() ? before.counts(i) : 0;
    const int64_t added = now.counts(i) - earlier;
    if (added <= 0) continue;
    const auto place = i < now.bounds_size()
                           ? std::lower_bound(bounds.begin(), bounds.end(), now.bounds(i))
                           : bounds.end();
    increments[static_cast<size_t>(place - bounds.begin())] += static_cast<double>(added);
    any = true;
  }
  if (any) histogram.ObserveMultiple(increments, std::max(0.0, now.sum() - before.sum()));
}

}  // namespace

StatsMetrics::StatsMetrics(Metrics& metrics, std::string model_name)
    : metrics_(metrics), model_name_(std::move(model_name)) {}

void StatsMetrics::Apply(const enginepb::StatsResponse& stats) {
  const auto add_tokens = [&](const char* kind, int64_t now, int64_t before) {
    auto& counter = metrics_.inference_tokens.Add({{"model", model_name_}, {"kind", kind}});
    if (now > before) counter.Increment(static_cast<double>(now - before));
  };
  add_tokens("prompt", stats.prompt_tokens_total(), last_.prompt_tokens_total());
  add_tokens("cached", stats.cached_tokens_total(), last_.cached_tokens_total());
  add_tokens("generated", stats.generated_tokens_total(), last_.generated_tokens_total());
  Finished before = FinishedOf(last_);
  for (const auto& [what, count] : FinishedOf(stats)) {
    const int64_t added = count - before[what];
    if (added <= 0) continue;
    metrics_.inference_requests
        .Add({{"model", model_name_}, {"method", what.first}, {"finish_reason", what.second}})
        .Increment(static_cast<double>(added));
  }
  AddObservations(stats.queue(), last_.queue(), TimeToFirstTokenBuckets(),
                  metrics_.queue_seconds.Add({{"model", model_name_}}, TimeToFirstTokenBuckets()));
  AddObservations(stats.time_to_first_token(), last_.time_to_first_token(),
                  TimeToFirstTokenBuckets(),
                  metrics_.time_to_first_token_seconds.Add({{"model", model_name_}},
                                                           TimeToFirstTokenBuckets()));
  AddObservations(stats.inter_token(), last_.inter_token(), InterTokenBuckets(),
                  metrics_.inter_token_seconds.Add({{"model", model_name_}}, InterTokenBuckets()));
  last_ = stats;
}

}  // namespace modeld
