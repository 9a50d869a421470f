#include "server/engines/stats_metrics.h"

#include <gtest/gtest.h>

namespace modeld {
namespace {

namespace enginepb = modeld::engine::v1;

class StatsMetricsTest : public testing::Test {
 protected:
  double Tokens(const std::string& kind) {
    return metrics_.inference_tokens.Add({{"model", "m"}, {"kind", kind}}).Value();
  }
  prometheus::ClientMetric::Histogram InterToken() {
    return metrics_.inter_token_seconds.Add({{"model", "m"}}, InterTokenBuckets())
        .Collect()
        .histogram;
  }

  Metrics metrics_;
  StatsMetrics counters_{metrics_, "m"};
};

TEST_F(StatsMetricsTest, OnlyWhatIsNewIsAdded) {
  enginepb::StatsResponse stats;
  stats.set_prompt_tokens_total(10);
  stats.set_generated_tokens_total(4);
  counters_.Apply(stats);
  stats.set_generated_tokens_total(7);
  counters_.Apply(stats);
  counters_.Apply(stats);

  EXPECT_EQ(Tokens("prompt"), 10);
  EXPECT_EQ(Tokens("generated"), 7);
  EXPECT_EQ(Tokens("cached"), 0);
}

TEST_F(StatsMetricsTest, NextProcessGoesOnWhereTheLastOneEnded) {
  enginepb::StatsResponse stats;
  stats.set_prompt_tokens_total(10);
  counters_.Apply(stats);

  StatsMetrics next(metrics_, "m");
  stats.set_prompt_tokens_total(3);
  next.Apply(stats);

  EXPECT_EQ(Tokens("prompt"), 13);
}

TEST_F(StatsMetricsTest, FinishedRequestsAreCountedByMethodAndReason) {
  enginepb::StatsResponse stats;
  auto* finished = stats.add_finished();
  finished->set_method("Chat");
  finished->set_finish_reason("stop");
  finished->set_count(2);
  counters_.Apply(stats);
  finished->set_count(5);
  counters_.Apply(stats);

  EXPECT_EQ(metrics_.inference_requests
                .Add({{"model", "m"}, {"method", "Chat"}, {"finish_reason", "stop"}})
                .Value(),
            5);
}

TEST_F(StatsMetricsTest, HistogramBucketsArriveWhereTheyWere) {
  enginepb::StatsResponse stats;
  auto* histogram = stats.mutable_inter_token();
  const auto bounds = InterTokenBuckets();
  histogram->mutable_bounds()->Assign(bounds.begin(), bounds.end());
  for (size_t i = 0; i <= bounds.size(); ++i) histogram->add_counts(static_cast<int64_t>(i));
  histogram->set_sum(12.5);
  counters_.Apply(stats);
  counters_.Apply(stats);

  const auto collected = InterToken();
  EXPECT_EQ(collected.sample_count, bounds.size() * (bounds.size() + 1) / 2);
  EXPECT_EQ(collected.sample_sum, 12.5);
  EXPECT_EQ(collected.bucket.at(1).cumulative_count, 1u);
}

TEST_F(StatsMetricsTest, EngineWithOtherBoundsIsCountedInTheNextBucket) {
  enginepb::StatsResponse stats;
  auto* histogram = stats.mutable_inter_token();
  histogram->add_bounds(0.0007);
  histogram->add_counts(3);
  histogram->add_counts(1);
  histogram->set_sum(1);
  counters_.Apply(stats);

  const auto collected = InterToken();
  EXPECT_EQ(collected.sample_count, 4u);
  EXPECT_EQ(collected.bucket.at(0).cumulative_count, 0u);  // up to 0.5 ms
  EXPECT_EQ(collected.bucket.at(1).cumulative_count, 3u);  // up to 1 ms
}

}  // namespace
}  // namespace modeld
