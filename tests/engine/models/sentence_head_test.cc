#include "server/engine/models/sentence_head.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

// By sentence-transformers' own module, see tests/goldens/make_vectors.py.
TEST(PoolTest, EveryWayToPoolIsTheReferences) {
  const std::map<std::string, Pooling> kNames = {
      {"cls", Pooling::kFirst},      {"max", Pooling::kMax},
      {"mean", Pooling::kMean},      {"mean_sqrt_len_tokens", Pooling::kMeanSquareRoot},
      {"lasttoken", Pooling::kLast}, {"weightedmean", Pooling::kWeightedMean}};
  std::ifstream stream(MODELD_TEST_DATA "/poolings.json");
  const nlohmann::json golden = nlohmann::json::parse(stream);
  std::vector<at::Tensor> rows;
  for (const std::vector<float> row : golden.at("tokens")) rows.push_back(at::tensor(row));
  const at::Tensor tokens = at::stack(rows);

  for (const nlohmann::json& item : golden.at("cases")) {
    const nlohmann::json& mode = item.at("pooling_mode");
    std::vector<Pooling> poolings;
    for (const std::string name : mode.is_array() ? mode : nlohmann::json::array({mode})) {
      poolings.push_back(kNames.at(name));
    }

    const at::Tensor vector = Pool(poolings, tokens, item.at("prompt_tokens"));

    const at::Tensor expected = at::tensor(item.at("vector").get<std::vector<float>>());
    ASSERT_EQ(vector.sizes(), expected.sizes()) << item;
    EXPECT_LT((vector - expected).abs().max().item<double>(), 1e-6) << item;
  }
}

TEST(SentenceHeadTest, MissingAndMisshapenWeightsAreNamed) {
  const std::string snapshot = MODELD_TEST_DATA "/models/tiny-bert";
  SentenceConfig config;
  config.modules = {{.folder = "2_Dense", .in_features = 32, .out_features = 25}};
  const auto misshapen = SentenceHead::Load(config, snapshot, at::kCPU);
  config.modules = {{.folder = "7_Dense", .in_features = 32, .out_features = 24}};
  const auto missing = SentenceHead::Load(config, snapshot, at::kCPU);

  EXPECT_THAT(misshapen, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_NE(std::string(misshapen.status().message()).find("[24] instead of [25]"),
            std::string::npos)
      << misshapen.status();
  EXPECT_THAT(missing, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_NE(std::string(missing.status().message()).find("7_Dense"), std::string::npos);
}

}  // namespace
}  // namespace modeld
