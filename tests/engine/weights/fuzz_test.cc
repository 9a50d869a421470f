// Everything that is read of a repository before and while its weights are loaded.
#include "tests/support/fuzz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

#include "server/base/status.h"
#include "server/core/inspection.h"
#include "server/core/reason.h"
#include "server/engine/weights/generation_config.h"
#include "server/engine/weights/inspect.h"
#include "server/engine/weights/safetensors.h"
#include "server/engine/weights/sentence_config.h"
#include "server/engine/weights/tensor_pickle.h"
#include "server/engine/weights/torch_file.h"
#include "server/engine/weights/weight_files.h"
#include "server/engine/weights/weight_set.h"
#include "server/engine/weights/zip_directory.h"
#include "tests/engine/weights/repository.h"

namespace modeld {
namespace {

const std::string kData = MODELD_TEST_DATA;

std::string ReadData(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// The content of all files below `folder` with that name, or that end of it.
std::vector<std::string> FilesNamed(const std::string& folder, const std::string& ending) {
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.path().string().ends_with(ending)) paths.push_back(entry.path().string());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> contents;
  for (const std::string& path : paths) contents.push_back(ReadData(path));
  return contents;
}

absl::Status StatusOfInspection(const Inspection& inspection) {
  if (inspection.supported) return absl::OkStatus();
  EXPECT_FALSE(inspection.reason.empty());
  // Whatever the repository holds, the answer can be written.
  EXPECT_FALSE(InspectionToJson(inspection).empty());
  return Error(Reason::kInvalidRepository, inspection.message);
}

TEST(WeightsFuzzTest, Config) {
  FuzzCorpus corpus = {.inputs = FilesNamed(kData + "/models", "/config.json"),
                       .pieces = {"\"rope_scaling\":{\"rope_type\":\"llama3\"},", "{", "[", "\"",
                                  "\"num_hidden_layers\":1000000,", "\"head_dim\":0,", "null",
                                  "\"quantization_config\":{\"quant_method\":\"fp8\"},",
                                  "\"auto_map\":{\"AutoModel\":\"x.Y\"},", "\xff"}};
  Fuzz(corpus, [](const std::string& config) {
    const auto defaults = ReadGenerationDefaults(config, {});
    EXPECT_TRUE(defaults.ok() || !ReasonOf(defaults.status()).empty());
    return StatusOfInspection(Inspect({.config_json = config}));
  });
}

// Each text as each of the files of sentence-transformers, beside sound others.
TEST(WeightsFuzzTest, SentenceFiles) {
  const std::string repository = kData + "/models/tiny-bert/";
  const std::vector<std::string> paths = {"modules.json",
                                          "1_Pooling/config.json",
                                          "2_Dense/config.json",
                                          "sentence_bert_config.json",
                                          "config_sentence_transformers.json",
                                          "tokenizer_config.json"};
  FuzzCorpus corpus = {.inputs = {},
                       .pieces = {"\"path\":\"../..\",", "{", "[", "\"", "null", "1e999", "\xff",
                                  "\"type\":\"x.Dense\",", "\"type\":\"x.Normalize\",",
                                  "\"pooling_mode\":[\"max\",\"cls\"],"}};
  for (const std::string& path : paths) corpus.inputs.push_back(ReadData(repository + path));
  ArchitectureConfig config;
  config.hidden_size = 32;
  Fuzz(corpus, [&](const std::string& text) {
    bool accepted = false;
    absl::Status refusal;
    for (const std::string& fuzzed : paths) {
      const auto read = ReadSentenceConfig(
          [&](const std::string& path) -> absl::StatusOr<std::optional<std::string>> {
            if (path == fuzzed) return text;
            if (std::ranges::find(paths, path) == paths.end()) return std::nullopt;
            return ReadData(repository + path);
          },
          config);
      if (!read.ok()) {
        refusal = read.status();
        EXPECT_FALSE(ReasonOf(refusal).empty()) << refusal;
        continue;
      }
      accepted = true;
      EXPECT_GE(read->dimensions, 1);
      EXPECT_FALSE(read->poolings.empty());
    }
    return accepted ? absl::OkStatus() : refusal;
  });
}

TEST(WeightsFuzzTest, Index) {
  FuzzCorpus corpus = {.inputs = FilesNamed(kData, ".index.json"),
                       .pieces = {"../", "\"a\":\"b.safetensors\",", "{", "[", "\"", "\\u0000"}};
  Fuzz(corpus, [](const std::string& index) {
    const bool is_torch = index.find(".bin") != std::string::npos;
    return ParseWeightIndex(index, is_torch ? kTorchIndexFile : kWeightIndexFile).status();
  });
}

TEST(WeightsFuzzTest, SafetensorsHeader) {
  FuzzCorpus corpus = {
      .inputs = {SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                  R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})",
                                  16),
                 SafetensorsBytes(R"({"__metadata__":{"format":"pt"}})", 0)},
      .pieces = {"\"c\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},", "{", "[", "\"",
                 "\"shape\":", "[[[[", std::string(4, '\0'), "9223372036854775807"}};
  Fuzz(corpus, [](const std::string& file) {
    const auto table = ParseSafetensorsHeader(file, "x", std::ssize(file));
    if (!table.ok()) return table.status();
    for (const auto& [name, tensor] : table->tensors) {
      EXPECT_GE(tensor.begin, 0);
      EXPECT_LE(table->data_offset + tensor.end, std::ssize(file));
    }
    return absl::OkStatus();
  });
}

// Reads every byte that the engine would.
void ReadAll(const WeightSet& weights) {
  unsigned sum = 0;
  for (const auto& [name, tensor] : weights.tensors()) {
    for (int64_t i = 0; i < tensor.stored->bytes(); ++i) {
      sum += std::to_integer<unsigned>(tensor.data[i]);
    }
    if (tensor.scale == nullptr) continue;
    std::vector<float> row(tensor.scale->layout.columns);
    DequantizeFp8(tensor.data, *tensor.scale, 0, row);
  }
  // Keeps the reads.
  EXPECT_LE(sum, UINT32_MAX);
}

TEST(WeightsFuzzTest, TensorData) {
  const auto config = ReadArchitectureConfig(
      LlamaConfig("quantization_config", R"({"quant_method":"fp8","weight_block_size":[16,16]})"));
  ASSERT_TRUE(config.ok());
  FuzzCorpus corpus = {
      .inputs = {Fp8WeightsFor(*config, {.dtype = "F32", .shape = {2, 2}}),
                 Fp8WeightsFor(*config, {.dtype = "F32", .shape = {32, 1}}), WeightsFor(*config)},
      .pieces = {"F8_E4M3", "BF16", "_scale_inv", "[32,32]", "{", std::string(9, '\0')}};
  const TemporaryRepository repository;
  Fuzz(corpus, [&](const std::string& file) {
    repository.Write("model.safetensors", file);
    const auto weights = WeightSet::Open(repository.path(), *config);
    if (!weights.ok()) return weights.status();
    ReadAll(*weights);
    return absl::OkStatus();
  });
}

TEST(WeightsFuzzTest, TorchFile) {
  FuzzCorpus corpus = {
      .inputs = FilesNamed(kData + "/torch_files", ".bin"),
      .pieces = {"PK\x05\x06", "PK\x06\x07", "PK\x01\x02", "ctorch\nFloatStorage\n",
                 std::string(8, '\xff'), "data.pkl", "q\x01h\x01", "(", "\x85"}};
  std::erase_if(corpus.inputs, [](const std::string& file) { return file.size() > 64 << 10; });
  Fuzz(corpus, [](const std::string& file) {
    const auto table = ParseTorchFile(file, "x.bin");
    if (!table.ok()) return table.status();
    for (const auto& [name, tensor] : table->tensors) {
      EXPECT_GE(tensor.begin, 0);
      EXPECT_LE(tensor.end, std::ssize(file));
    }
    return absl::OkStatus();
  });
}

TEST(WeightsFuzzTest, Pickle) {
  FuzzCorpus corpus = {.inputs = {},
                       .pieces = {"ctorch\nHalfStorage\n",
                                  "ccollections\nOrderedDict\n",
                                  "(",
                                  "t",
                                  ")",
                                  "R",
                                  "Q",
                                  "}",
                                  "s",
                                  "u",
                                  "b",
                                  "q\x01h\x01",
                                  "\x85",
                                  "\x86",
                                  "\x87",
                                  "K\x01",
                                  "J\xff\xff\xff\xff",
                                  "X\x02\x00\x00\x00zz",
                                  "\x94",
                                  "N."}};
  for (const std::string& file : FilesNamed(kData + "/torch_files", ".bin")) {
    const auto directory = ReadZipDirectory(file, "x");
    if (!directory.ok()) continue;
    for (const auto& [name, entry] : *directory) {
      if (name.ends_with("data.pkl"))
        corpus.inputs.push_back(file.substr(entry.offset, entry.bytes));
    }
  }
  Fuzz(corpus, [](const std::string& pickle) { return ReadTensorPickle(pickle, "x").status(); });
}

}  // namespace
}  // namespace modeld
