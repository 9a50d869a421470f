#include "server/engine/weights/weight_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "server/engine/weights/architecture.h"
#include "tests/engine/weights/repository.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::HasSubstr;

std::string ReadData(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  EXPECT_TRUE(stream) << path;
  return {std::istreambuf_iterator<char>(stream), {}};
}

absl::StatusOr<WeightSet> OpenWith(const std::string& folder, const ArchitectureConfig& config) {
  return WeightSet::Open(folder, config);
}

ArchitectureConfig ConfigOf(const std::string& folder) {
  return ReadArchitectureConfig(ReadData(folder + "/config.json")).value();
}

std::string BytesOf(const WeightSet::Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data), static_cast<size_t>(tensor.stored->bytes())};
}

const std::string kTorchFiles = std::string(MODELD_TEST_DATA) + "/torch_files";
const std::string kSafetensors = std::string(MODELD_TEST_DATA) + "/models/tiny-llama-bias";

TEST(WeightSetTest, ShardedTorchFilesHoldWhatSafetensorsHold) {
  const ArchitectureConfig config = ConfigOf(kSafetensors);
  const auto expected = OpenWith(kSafetensors, config);
  ASSERT_THAT(expected, IsOk());

  const auto got = OpenWith(kTorchFiles + "/sharded", config);

  ASSERT_THAT(got, IsOk());
  EXPECT_EQ(got->bytes(), expected->bytes());
  ASSERT_EQ(got->tensors().size(), expected->tensors().size());
  for (const auto& [name, tensor] : expected->tensors()) {
    ASSERT_TRUE(got->tensors().contains(name));
    EXPECT_EQ(BytesOf(got->tensors().at(name)), BytesOf(tensor)) << name;
  }
}

TEST(WeightSetTest, SafetensorsComeBeforeTorchFiles) {
  const TemporaryRepository repository;
  repository.Write("pytorch_model.bin", "no such format");
  const ArchitectureConfig config = ReadArchitectureConfig(LlamaConfig()).value();
  EXPECT_THAT(OpenWith(repository.path(), config), HasReasonOf(Reason::kInvalidRepository));

  repository.Write("model.safetensors", WeightsFor(config));

  EXPECT_THAT(OpenWith(repository.path(), config), IsOk());
}

// As google-bert's repositories have them.
TEST(WeightSetTest, NormsNamedGammaAndBetaAreRead) {
  const ArchitectureConfig config =
      ReadArchitectureConfig(R"({"model_type":"bert","hidden_size":8,"intermediate_size":16,
        "num_hidden_layers":1,"num_attention_heads":2,"vocab_size":20})")
          .value();
  std::string file = WeightsFor(config);
  const auto replace = [&](const std::string& from, const std::string& to) {
    // The same number of bytes, so that the header keeps its length.
    ASSERT_EQ(from.size(), to.size());
    size_t count = 0;
    for (size_t at = 0; (at = file.find(from, at)) != std::string::npos; ++count) {
      file.replace(at, from.size(), to);
    }
    EXPECT_EQ(count, 3U);
  };
  replace("LayerNorm.weight\":{", "LayerNorm.gamma\" :{");
  replace("LayerNorm.bias\":{", "LayerNorm.beta\":{");
  const TemporaryRepository repository;
  repository.Write("model.safetensors", file);

  EXPECT_THAT(OpenWith(repository.path(), config), IsOk());
}

TEST(WeightSetTest, IndexThatNamesOtherThanTorchFilesIsRefused) {
  const TemporaryRepository repository;
  repository.Write("pytorch_model.bin.index.json", R"({"weight_map": {"a": "../x.bin"}})");

  const auto opened = OpenWith(repository.path(), ReadArchitectureConfig(LlamaConfig()).value());

  EXPECT_THAT(opened, HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(std::string(opened.status().message()), HasSubstr("../x.bin"));
}

absl::StatusOr<WeightSet> OpenFp8(const Fp8ScaleOfTest& scale, const std::string& quantization) {
  const TemporaryRepository repository;
  const auto config = ReadArchitectureConfig(LlamaConfig("quantization_config", quantization));
  if (!config.ok()) return config.status();
  repository.Write("model.safetensors", Fp8WeightsFor(*config, scale));
  return OpenWith(repository.path(), *config);
}

constexpr char kBlocksOf16[] =
    R"({"quant_method": "fp8", "weight_block_size": [16, 16], "activation_scheme": "dynamic"})";

TEST(WeightSetTest, Fp8TensorsComeWithTheirScales) {
  const auto opened = OpenFp8({.dtype = "F32", .shape = {2, 2}}, kBlocksOf16);

  ASSERT_THAT(opened, IsOk());
  int scaled = 0;
  for (const auto& [name, tensor] : opened->tensors()) {
    EXPECT_FALSE(name.ends_with("_scale_inv")) << name;
    if (tensor.scale == nullptr) continue;
    ++scaled;
    EXPECT_EQ(tensor.scale->layout.block_rows, 16);
    EXPECT_EQ(tensor.scale->layout.scale_columns, 2);
  }
  EXPECT_EQ(scaled, 2);
}

TEST(WeightSetTest, Fp8WithoutAScaleThatFitsListsTheTensors) {
  for (const Fp8ScaleOfTest& scale :
       {Fp8ScaleOfTest(), Fp8ScaleOfTest{.dtype = "F32", .shape = {3, 2}}}) {
    const auto opened = OpenFp8(scale, kBlocksOf16);

    EXPECT_THAT(opened, HasReasonOf(Reason::kInvalidRepository));
    const std::string message(opened.status().message());
    EXPECT_THAT(message, HasSubstr("2 without a scale that fits"));
    EXPECT_THAT(message, HasSubstr("q_proj.weight_scale_inv"));
  }
}

TEST(WeightSetTest, Fp8ThatConfigJsonDoesNotAnnounceIsUnsupported) {
  const TemporaryRepository repository;
  const ArchitectureConfig config = ReadArchitectureConfig(LlamaConfig()).value();
  repository.Write("model.safetensors", Fp8WeightsFor(config, {.dtype = "F32", .shape = {2, 2}}));

  EXPECT_THAT(OpenWith(repository.path(), config), HasReasonOf(Reason::kUnsupportedWeights));
  EXPECT_THAT(OpenFp8({.dtype = "I32", .shape = {2, 2}}, kBlocksOf16),
              HasReasonOf(Reason::kUnsupportedWeights));
}

}  // namespace
}  // namespace modeld
