#include "server/engine/models/loader.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "server/engine/models/memory_plan.h"
#include "tests/engine/models/golden.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

TEST(LoaderTest, BudgetIsKept) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "bfloat16");

  ASSERT_EQ(loaded.devices.size(), 1U);
  EXPECT_EQ(loaded.devices[0].device, "cpu");
  EXPECT_GT(loaded.devices[0].weights_bytes, 0);
  EXPECT_GT(loaded.devices[0].kv_cache_bytes, 0);
  EXPECT_LE(loaded.devices[0].total(), 256 << 20);
  EXPECT_EQ(loaded.max_context, 2048);
  EXPECT_EQ(loaded.generation_defaults.eos_token_ids, (std::vector<int64_t>{2, 0}));
}

TEST(LoaderTest, BudgetThatIsTooSmallIsRefusedWithBothFigures) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "bfloat16");
  options.budget_bytes = {{"cpu", 1'000'000}};

  const auto loaded = LoadModel(options, nullptr);

  EXPECT_THAT(loaded, HasReasonOf(Reason::kInsufficientDeviceMemory));
  EXPECT_EQ(DetailsOf(loaded.status()).metadata.at("free_bytes"), "1000000");
}

// A budget that holds weights and workspace but few keys makes the context shorter.
TEST(LoaderTest, ContextIsWhatTheBudgetHolds) {
  ArchitectureConfig config =
      ReadArchitectureConfig(R"({"model_type":"llama","hidden_size":64,"intermediate_size":128,
        "num_hidden_layers":2,"num_attention_heads":4,"vocab_size":320,
        "max_position_embeddings":100000})")
          .value();
  MemoryRequest request = {.map = DeviceMap::Whole("cpu", config.num_layers),
                           .budget_bytes = {{"cpu", int64_t{1} << 30}},
                           .element_bytes = 2};
  int64_t& budget = request.budget_bytes["cpu"];
  const auto ample = PlanMemory(config, request);
  ASSERT_THAT(ample, IsOk());
  budget = ample->devices[0].weights_bytes + ample->devices[0].workspace_bytes +
           300 * 512;  // 300 tokens

  const auto plan = PlanMemory(config, request);

  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->max_context, 288);  // whole blocks of 16
  EXPECT_LE(
      plan->devices[0].weights_bytes + plan->devices[0].workspace_bytes + plan->devices[0].kv_bytes,
      budget);
}

TEST(LoaderTest, ContextThatTheModelDoesNotHaveIsRefused) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "bfloat16");
  options.spec.max_context = 4096;

  EXPECT_THAT(LoadModel(options, nullptr), NamesField("max_context"));
}

TEST(LoaderTest, DeviceThatIsNotThereIsNamed) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "bfloat16");

  // No machine has so many, with CUDA or without.
  options.spec.device_map = "cuda:999";

  EXPECT_THAT(LoadModel(options, nullptr), NamesField("device_map"));
}

TEST(LoaderTest, ModulesWithoutADeviceAreNamed) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "bfloat16");
  options.spec.device_map = "";
  options.spec.device_map_entries = {{"model.embed_tokens", "cpu"}, {"model.layers.0", "cpu"}};

  const auto loaded = LoadModel(options, nullptr);

  EXPECT_THAT(loaded, NamesField("device_map_entries"));
  EXPECT_THAT(std::string(loaded.status().message()), testing::HasSubstr("model.layers.1"));
  EXPECT_THAT(std::string(loaded.status().message()), testing::HasSubstr("lm_head"));
}

TEST(LoaderTest, DeviceOfAMapWithoutABudgetIsNamed) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "bfloat16");
  options.spec.device_map = "";
  options.spec.device_map_entries = {{"", "cpu"}, {"lm_head", "cpu:7"}};

  const auto loaded = LoadModel(options, nullptr);

  EXPECT_THAT(loaded, NamesField("device_map_entries"));
  EXPECT_THAT(std::string(loaded.status().message()), testing::HasSubstr("cpu:7"));
}

TEST(LoaderTest, ProgressEndsAtAllBytes) {
  std::vector<int64_t> done;
  int64_t total = 0;

  const auto loaded =
      LoadModel(TinyOptions("tiny-llama-sharded", "float32"), [&](int64_t bytes, int64_t of) {
        done.push_back(bytes);
        total = of;
      });

  ASSERT_THAT(loaded, IsOk());
  ASSERT_FALSE(done.empty());
  EXPECT_EQ(done.back(), total);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
}

TEST(LoaderTest, MissingFolderIsAnError) {
  EXPECT_FALSE(LoadModel(TinyOptions("no-such-model", "float32"), nullptr).ok());
}

TEST(DecoderTest, ReserveRefusesWhatThePoolDoesNotHaveAndGivesItBack) {
  ModelLoadOptions options = TinyOptions("tiny-llama", "float32");
  options.budget_bytes = {{"cpu", 6 << 20}};
  const LoadedModel loaded = LoadModel(options, nullptr).value();
  CausalLm& model = *loaded.model;
  const int64_t total = model.kv_tokens_total();
  ASSERT_EQ(model.kv_tokens_free(), total);
  {
    const auto all = model.NewSequence();
    const auto none = model.NewSequence();
    ASSERT_TRUE(all->Reserve(total));

    EXPECT_FALSE(none->Reserve(1));
    EXPECT_EQ(model.kv_tokens_free(), 0);
  }
  EXPECT_EQ(model.kv_tokens_free(), total);
}

TEST(DecoderTest, TokenOutsideTheVocabularyThrowsAndChangesNothing) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  const auto state = loaded.model->NewSequence();
  ASSERT_TRUE(state->Reserve(8));

  EXPECT_THROW(loaded.model->Forward({{state.get(), {5, 320}}}), c10::Error);
  EXPECT_THROW(loaded.model->Forward({{state.get(), {-1}}}), c10::Error);

  EXPECT_EQ(state->length(), 0);
}

TEST(DecoderTest, OnlyWantedRowsComeBackInOrder) {
  const LoadedModel loaded = LoadTiny("tiny-llama", "float32");
  std::vector<std::unique_ptr<SequenceState>> states;
  for (int i = 0; i < 3; ++i) {
    states.push_back(loaded.model->NewSequence());
    ASSERT_TRUE(states.back()->Reserve(4));
  }
  const at::Tensor alone = AllLogits(*loaded.model, {9, 8, 7}, 3);

  const at::Tensor logits = loaded.model->Forward(
      {{.state = states[0].get(), .token_ids = {4, 5}, .wants_logits = false},
       {.state = states[1].get(), .token_ids = {9, 8, 7}, .wants_all_logits = true},
       {.state = states[2].get(), .token_ids = {9, 8, 7}}});

  ASSERT_EQ(logits.size(0), 4);
  EXPECT_LT(RelativeDistance(logits.narrow(0, 0, 3), alone), 1e-5);
  EXPECT_LT(RelativeDistance(logits[3], alone[2]), 1e-5);
}

// A step above kPassTokens is cut inside, also in the middle of a sequence.
TEST(DecoderTest, LongStepIsTheSameAsManyShortOnes) {
  const LoadedModel loaded = LoadTiny("tiny-qwen3", "float32");
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < 1300; ++i) ids.push_back((i * 7919) % 320);

  const at::Tensor whole = AllLogits(*loaded.model, ids, 1300);
  const at::Tensor parts = AllLogits(*loaded.model, ids, 100);

  EXPECT_LT(RelativeDistance(whole, parts), 1e-4);
}

}  // namespace
}  // namespace modeld
