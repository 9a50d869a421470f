// Models of every family divided over two budgets of the CPU: nothing may change but where what is.
#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/engine/models/memory_plan.h"
#include "server/engine/weights/architecture.h"
#include "tests/engine/models/golden.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::Pair;

using Entries = std::map<std::string, std::string>;
using Route = std::vector<std::pair<std::string, std::string>>;  // moves, from and to

constexpr int64_t kBudget = 256 << 20;

// Counts what moves into `route`, which outlives the model.
LoadedModel LoadSplit(const std::string& name, const std::string& dtype, const Entries& entries,
                      Route* route) {
  ModelLoadOptions options = TinyOptions(name, dtype);
  options.spec.device_map = "";
  options.spec.device_map_entries = entries;
  options.budget_bytes = {{"cpu:0", kBudget}, {"cpu:1", kBudget}};
  if (route != nullptr) {
    options.on_move = [route](const std::string& from, const std::string& to, const at::Tensor&) {
      route->emplace_back(from, to);
    };
  }
  absl::StatusOr<LoadedModel> loaded = LoadModel(options, nullptr);
  EXPECT_TRUE(loaded.ok()) << loaded.status();
  return std::move(loaded).value();
}

// The first layer and the head on one device, all else on the other; then layers by turns.
const Entries kHalves = {{"", "cpu:0"},
                         {"model.layers.1", "cpu:1"},
                         {"model.layers.2", "cpu:1"},
                         {"model.layers.3", "cpu:1"},
                         {"model.layers.4", "cpu:1"},
                         {"model.layers.5", "cpu:1"},
                         {"model.norm", "cpu:1"}};
const Entries kTurns = {{"", "cpu:1"},
                        {"model.layers.0", "cpu:0"},
                        {"model.layers.2", "cpu:0"},
                        {"model.layers.4", "cpu:0"},
                        {"lm_head", "cpu:0"}};

std::string TestName(const testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

class SplitTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Repositories, SplitTest, testing::ValuesIn(GoldenNames()), TestName);

TEST_P(SplitTest, LogitsAreTheSameBitForBit) {
  const Golden golden = LoadGolden(GetParam());
  const LoadedModel whole = LoadTiny(GetParam(), "float32");
  for (const Entries& entries : {kHalves, kTurns}) {
    Route route;
    const LoadedModel split = LoadSplit(GetParam(), "float32", entries, &route);
    route.clear();

    for (const int64_t chunk : {1000, 7}) {
      const at::Tensor expected = AllLogits(*whole.model, golden.Fed(2), chunk);
      EXPECT_TRUE(at::equal(AllLogits(*split.model, golden.Fed(2), chunk), expected));
    }

    EXPECT_FALSE(route.empty());
    ASSERT_EQ(split.devices.size(), 2U);
    for (const DeviceBytes& device : split.devices) {
      EXPECT_GT(device.weights_bytes, 0) << device.device;
      EXPECT_LE(device.total(), kBudget) << device.device;
    }
  }
}

TEST_P(SplitTest, ForksOfOneSequenceGoOnAsIfTheyWereAlone) {
  const std::vector<int64_t> prompt = {3,  10, 17, 24,  31,  38,  45, 52, 59, 66, 73,
                                       80, 87, 94, 101, 108, 115, 2,  9,  16, 23, 30};
  const LoadedModel whole = LoadTiny(GetParam(), "float32");
  const LoadedModel split = LoadSplit(GetParam(), "float32", kTurns, nullptr);
  std::vector<at::Tensor> logits;
  for (CausalLm* model : {whole.model.get(), split.model.get()}) {
    const std::unique_ptr<SequenceState> first = model->NewSequence();
    ASSERT_TRUE(first->Reserve(24));
    model->Forward({{.state = first.get(), .token_ids = prompt}});
    const std::unique_ptr<SequenceState> second = first->Fork();
    ASSERT_TRUE(second);
    ASSERT_TRUE(second->Reserve(24));

    logits.push_back(model->Forward(
        {{.state = first.get(), .token_ids = {5}}, {.state = second.get(), .token_ids = {6, 7}}}));
  }

  EXPECT_TRUE(at::equal(logits[0], logits[1]));
}

// A sequence that lost its memory to another one and is computed again, as the scheduler does it.
TEST_P(SplitTest, ASequenceThatGaveItsMemoryAwayIsComputedAgainTheSame) {
  const Golden golden = LoadGolden(GetParam());
  const std::vector<int64_t>& ids = golden.prompts[0];
  const LoadedModel split = LoadSplit(GetParam(), "float32", kHalves, nullptr);
  CausalLm& model = *split.model;
  const at::Tensor expected = AllLogits(model, ids, 1000);
  {
    std::unique_ptr<SequenceState> paused = model.NewSequence();
    ASSERT_TRUE(paused->Reserve(std::ssize(ids)));
    model.Forward({{.state = paused.get(), .token_ids = ids}});
    const std::unique_ptr<SequenceState> greedy = model.NewSequence();
    ASSERT_TRUE(greedy->Reserve(model.kv_tokens_free()));
    EXPECT_FALSE(greedy->Reserve(greedy->length() + model.kv_tokens_total()));
    paused.reset();
    ASSERT_TRUE(greedy->Reserve(model.kv_tokens_total()));
    model.Forward({{.state = greedy.get(), .token_ids = golden.prompts[1]}});
  }

  EXPECT_EQ(model.kv_tokens_free(), model.kv_tokens_total());
  EXPECT_TRUE(at::equal(AllLogits(model, ids, 1000), expected));
}

TEST(SplitRouteTest, TokensMoveWhereTheMapHasBorders) {
  Route route;
  const LoadedModel loaded = LoadSplit("tiny-llama", "float32",
                                       {{"model.embed_tokens", "cpu:0"},
                                        {"model.layers.0", "cpu:0"},
                                        {"model.layers.1", "cpu:1"},
                                        {"model.norm", "cpu:1"},
                                        {"lm_head", "cpu:0"}},
                                       &route);
  route.clear();

  AllLogits(*loaded.model, {5, 6, 7}, 3);

  EXPECT_THAT(route, ElementsAre(Pair("cpu:0", "cpu:1"), Pair("cpu:1", "cpu:0")));
}

TEST(SplitRouteTest, OnOneDeviceNothingMoves) {
  Route route;
  const LoadedModel loaded = LoadSplit("tiny-gemma4", "float32", {{"", "cpu:1"}}, &route);

  AllLogits(*loaded.model, {5, 6, 7}, 3);

  EXPECT_THAT(route, ElementsAre());
  ASSERT_EQ(loaded.devices.size(), 1U);
  EXPECT_EQ(loaded.devices[0].device, "cpu:1");
}

// The last layers of gemma4 see the keys of layers before them, wherever those are.
TEST(SplitRouteTest, QueriesGoToTheKeysOfAnotherLayerAndBack) {
  Route route;
  const int64_t layers = 4;
  Entries entries = {{"", "cpu:0"}, {absl::StrCat("model.layers.", layers - 1), "cpu:1"}};
  const LoadedModel loaded = LoadSplit("tiny-gemma4", "float32", entries, &route);
  route.clear();

  AllLogits(*loaded.model, {5, 6, 7}, 3);

  EXPECT_THAT(route, ElementsAre(Pair("cpu:0", "cpu:1"),    // hidden states
                                 Pair("cpu:1", "cpu:0"),    // queries
                                 Pair("cpu:0", "cpu:1"),    // what they read
                                 Pair("cpu:1", "cpu:0")));  // to the head
}

TEST(SplitRouteTest, MemoryIsCountedWhereTheMapPutsIt) {
  const LoadedModel loaded =
      LoadSplit("tiny-llama", "float32", {{"", "cpu:0"}, {"model.layers", "cpu:1"}}, nullptr);
  const LoadedModel whole = LoadTiny("tiny-llama", "float32");

  ASSERT_EQ(loaded.devices.size(), 2U);
  EXPECT_EQ(loaded.devices[0].device, "cpu:0");
  EXPECT_EQ(loaded.devices[0].kv_cache_bytes, 0);
  EXPECT_EQ(loaded.devices[1].kv_cache_bytes, whole.devices[0].kv_cache_bytes);
  EXPECT_EQ(loaded.devices[0].weights_bytes + loaded.devices[1].weights_bytes,
            whole.devices[0].weights_bytes);
}

TEST(SplitRouteTest, TheDeviceThatIsTooSmallIsNamed) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "float32");
  options.spec.device_map = "";
  options.spec.device_map_entries = {{"", "cpu:0"}, {"model.layers.1", "cpu:1"}};
  options.budget_bytes = {{"cpu:0", kBudget}, {"cpu:1", 1000}};

  const auto loaded = LoadModel(options, nullptr);

  ASSERT_THAT(loaded, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_EQ(DetailsOf(loaded.status()).metadata.at("where"), "cpu:1");
}

// Blocks are taken on all devices at once, so the smallest one says how many there are.
TEST(SplitPlanTest, TheTightestDeviceGivesTheContext) {
  const ArchitectureConfig config =
      ReadArchitectureConfig(R"({"model_type":"llama","hidden_size":64,"intermediate_size":128,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":320,
        "max_position_embeddings":100000})")
          .value();
  MemoryRequest request = {.map = DeviceMap::Whole("a", 2),
                           .budget_bytes = {{"a", int64_t{1} << 30}, {"b", int64_t{1} << 30}},
                           .element_bytes = 2};
  request.map.layers[1] = "b";
  const auto ample = PlanMemory(config, request);
  ASSERT_THAT(ample, IsOk());
  const DevicePlan& of_b = ample->devices[1];
  request.budget_bytes["b"] = of_b.weights_bytes + of_b.workspace_bytes + 300 * 256;

  const auto plan = PlanMemory(config, request);

  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->max_context, 288);  // whole blocks of 16
  for (const DevicePlan& device : plan->devices) {
    EXPECT_LE(device.total(), request.budget_bytes[device.device]) << device.device;
  }
}

class SplitVectorsTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Repositories, SplitVectorsTest,
                         testing::Values("tiny-bert", "tiny-roberta", "tiny-mpnet",
                                         "tiny-modernbert", "tiny-nomic-bert",
                                         "tiny-qwen3-embedding", "tiny-embedding-gemma"),
                         TestName);

TEST_P(SplitVectorsTest, VectorsAreTheSameBitForBit) {
  const LoadedModel whole = LoadTiny(GetParam(), "float32");
  Route route;
  const LoadedModel split = LoadSplit(GetParam(), "float32", kHalves, &route);
  const TokenizedText first = {.token_ids = {5, 6, 7, 8}};
  const TokenizedText second = {.token_ids = {9, 10, 11, 12, 13, 14}};
  route.clear();

  const auto expected = whole.embedder->Embed(std::vector{&first, &second});

  EXPECT_EQ(split.embedder->Embed(std::vector{&first, &second}), expected);
  EXPECT_FALSE(route.empty());
  EXPECT_EQ(split.max_context, whole.max_context);
}

}  // namespace
}  // namespace modeld
