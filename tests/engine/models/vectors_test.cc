// Every model that makes vectors against transformers, in float32 and bfloat16.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "server/engine/models/encoder.h"
#include "server/engine/models/memory_plan.h"
#include "server/engine/models/pass.h"
#include "server/engine/models/tensor_source.h"
#include "server/engine/weights/weight_file.h"
#include "tests/engine/models/golden.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

std::vector<std::string> VectorNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TinyRepository(""))) {
    if (std::filesystem::exists(entry.path() / "vectors.json")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

struct VectorsGolden {
  std::vector<std::vector<int64_t>> texts;
  std::vector<at::Tensor> hidden;  // float32 [tokens, hidden]
  double bf16_mean = 0;            // distance of the reference's own bfloat16
  double bf16_max = 0;
};

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream stream(path);
  return nlohmann::json::parse(stream);
}

VectorsGolden LoadVectors(const std::string& name) {
  const nlohmann::json json = ReadJson(TinyRepository(name) + "/vectors.json");
  VectorsGolden golden = {.texts = json.at("texts"),
                          .hidden = {},
                          .bf16_mean = json.at("bf16_mean"),
                          .bf16_max = json.at("bf16_max")};
  const std::shared_ptr<const WeightFile> file =
      WeightFile::Open(TinyRepository(name) + "/vectors.safetensors", "vectors").value();
  for (size_t i = 0; i < golden.texts.size(); ++i) {
    const StoredTensor& stored = file->table().tensors.at("hidden." + std::to_string(i));
    golden.hidden.push_back(MappedTensor(WeightSet::TensorOf(file, stored)).clone());
  }
  return golden;
}

Encoder LoadEncoder(const std::string& name, at::ScalarType dtype) {
  std::ifstream stream(TinyRepository(name) + "/config.json");
  const std::string text{std::istreambuf_iterator<char>(stream), {}};
  ArchitectureConfig config = ReadArchitectureConfig(text).value();
  EXPECT_THAT(UseForVectors(config), IsOk());
  const WeightSet weights = WeightSet::Open(TinyRepository(name), config).value();
  const TensorSource source(weights, dtype, at::kCPU, [](int64_t) {});
  return {config, config.max_context, source,
          std::make_shared<ModelDevices>(DeviceMap::Whole("cpu", config.num_layers), nullptr)};
}

at::Tensor VectorsOf(const Encoder& encoder, const std::vector<std::vector<int64_t>>& texts) {
  const std::vector<std::span<const int64_t>> views(texts.begin(), texts.end());
  return encoder.Forward(views).to(at::kFloat);
}

class VectorsTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, VectorsTest, testing::ValuesIn(VectorNames()),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(VectorsTest, VectorsOfTextsAloneAreTheReferences) {
  const VectorsGolden golden = LoadVectors(GetParam());
  const Encoder encoder = LoadEncoder(GetParam(), at::kFloat);
  double largest = 0;

  for (size_t i = 0; i < golden.texts.size(); ++i) {
    const double distance =
        RelativeDistance(VectorsOf(encoder, {golden.texts[i]}), golden.hidden[i]);
    EXPECT_LT(distance, 1e-3) << "text " << i;
    largest = std::max(largest, distance);
  }
  // For the table of architectures in README.md.
  RecordProperty("largest_distance", absl::StrFormat("%.1e", largest));
}

// Eight texts of different lengths five times over, which is more than goes through the widest part
// of a layer at once.
TEST_P(VectorsTest, VectorsInAMixedBatchAreTheReferences) {
  constexpr size_t kBatch[] = {2, 0, 3, 3, 1, 0, 2, 1};
  constexpr int kTimes = 5;
  const VectorsGolden golden = LoadVectors(GetParam());
  const Encoder encoder = LoadEncoder(GetParam(), at::kFloat);
  std::vector<std::vector<int64_t>> texts;
  std::vector<at::Tensor> expected;
  for (int i = 0; i < kTimes; ++i) {
    for (const size_t text : kBatch) {
      texts.push_back(golden.texts[text]);
      expected.push_back(golden.hidden[text]);
    }
  }

  const at::Tensor vectors = VectorsOf(encoder, texts);

  ASSERT_GT(vectors.size(0), kPassTokens);
  EXPECT_LT(RelativeDistance(vectors, at::cat(expected)), 1e-3);
}

TEST_P(VectorsTest, BFloat16IsAsCloseToFloat32AsTheReferences) {
  const VectorsGolden golden = LoadVectors(GetParam());
  const Encoder encoder = LoadEncoder(GetParam(), at::kBFloat16);
  std::vector<at::Tensor> distances;

  for (size_t i = 0; i < golden.texts.size(); ++i) {
    const at::Tensor vectors = VectorsOf(encoder, {golden.texts[i]});
    distances.push_back((vectors - golden.hidden[i]).abs().flatten());
  }

  const at::Tensor distance = at::cat(distances);
  RecordProperty("bf16_mean_share",
                 absl::StrFormat("%.2f", distance.mean().item<double>() / golden.bf16_mean));
  EXPECT_LE(distance.mean().item<double>(), 1.25 * golden.bf16_mean);
  EXPECT_LE(distance.max().item<double>(), 1.25 * golden.bf16_max);
}

TEST(EncoderTest, TextsThatItCannotReadThrow) {
  const Encoder encoder = LoadEncoder("tiny-bert", at::kFloat);

  EXPECT_THROW(VectorsOf(encoder, {{5}, {}}), c10::Error);
  EXPECT_THROW(VectorsOf(encoder, {{5, 320}}), c10::Error);
  EXPECT_THROW(VectorsOf(encoder, {{-1}}), c10::Error);
  EXPECT_THROW(VectorsOf(encoder, {std::vector<int64_t>(65, 7)}), c10::Error);
}

TEST(VectorsLoaderTest, AnEncoderIsLoadedToMakeVectors) {
  const LoadedModel loaded = LoadTiny("tiny-roberta", "bfloat16");

  EXPECT_EQ(loaded.model, nullptr);
  ASSERT_NE(loaded.embedder, nullptr);
  EXPECT_EQ(loaded.embedder->dimensions(), 32);
  // 64 rows of positions, of which the padding token takes two.
  EXPECT_EQ(loaded.max_context, 62);
  ASSERT_EQ(loaded.devices.size(), 1U);
  EXPECT_EQ(loaded.devices[0].kv_cache_bytes, 0);
  EXPECT_LE(loaded.devices[0].total(), 256 << 20);
}

TEST(VectorsLoaderTest, TheRepositorySaysHowManyTokensAreRead) {
  EXPECT_EQ(LoadTiny("tiny-bert", "float32").max_context, 24);
  EXPECT_EQ(LoadTiny("tiny-qwen3-embedding", "float32").max_context, 32);
}

// A text goes through the layers whole, so its length costs activations.
TEST(VectorsLoaderTest, ContextIsWhatTheBudgetHolds) {
  const ArchitectureConfig config =
      ReadArchitectureConfig(R"({"model_type":"modernbert","hidden_size":64,"vocab_size":320,
        "intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4})")
          .value();
  MemoryRequest request = {.map = DeviceMap::Whole("cpu", config.num_layers),
                           .budget_bytes = {{"cpu", int64_t{1} << 30}},
                           .element_bytes = 2};
  int64_t& budget = request.budget_bytes["cpu"];
  const auto ample = PlanMemory(config, request);
  ASSERT_THAT(ample, IsOk());
  ASSERT_EQ(ample->max_context, 8192);
  budget =
      ample->devices[0].weights_bytes + ample->devices[0].workspace_bytes - 7000 * RowBytes(config);

  const auto plan = PlanMemory(config, request);
  budget = ample->devices[0].weights_bytes;
  const auto refused = PlanMemory(config, request);

  ASSERT_THAT(plan, IsOk());
  EXPECT_EQ(plan->max_context, 1192);
  EXPECT_EQ(plan->devices[0].weights_bytes + plan->devices[0].workspace_bytes,
            ample->devices[0].weights_bytes + ample->devices[0].workspace_bytes -
                7000 * RowBytes(config));
  EXPECT_THAT(refused, HasReasonOf(Reason::kInsufficientDeviceMemory));
}

}  // namespace
}  // namespace modeld
