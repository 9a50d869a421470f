// Every family's config.json with one key after the other spoilt.
#include "server/engine/weights/architecture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/engine/weights/model_parts.h"

namespace modeld {
namespace {

// The tiny repositories that have goldens, of text or of vectors.
std::vector<std::string> RepositoryNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(MODELD_TEST_DATA "/models")) {
    if (std::filesystem::exists(entry.path() / "goldens.json") ||
        std::filesystem::exists(entry.path() / "vectors.json")) {
      names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

nlohmann::json ConfigOf(const std::string& name) {
  std::ifstream stream(std::string(MODELD_TEST_DATA) + "/models/" + name + "/config.json");
  return nlohmann::json::parse(stream);
}

class ArchitectureTest : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Repositories, ArchitectureTest, testing::ValuesIn(RepositoryNames()),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Reads `config` and lists its tensors; false when it was refused for a reason of the contract.
bool IsRead(const nlohmann::json& config) {
  const auto read = ReadArchitectureConfig(config.dump());
  if (!read.ok()) {
    const std::string reason = ReasonOf(read.status());
    EXPECT_TRUE(reason == "INVALID_REPOSITORY" || reason == "UNSUPPORTED_ARCHITECTURE" ||
                reason == "UNSUPPORTED_WEIGHTS")
        << reason << ": " << read.status();
    return false;
  }
  int64_t bytes = 0;
  for (const TensorShape& tensor : TensorsOf(*read)) {
    EXPECT_GE(tensor.elements(), 0) << tensor.name;
    EXPECT_FALSE(__builtin_add_overflow(bytes, 4 * tensor.elements(), &bytes));
  }
  EXPECT_EQ(KvBytesPerToken(*read, 4) + StateBytesPerSequence(*read) > 0, !read->makes_vectors);
  EXPECT_GT(RowBytes(*read), 0);
  return true;
}

TEST_P(ArchitectureTest, PublishedConfigurationIsRead) {
  EXPECT_TRUE(IsRead(ConfigOf(GetParam())));
}

// Device maps go by these names.
TEST_P(ArchitectureTest, EveryTensorLiesInAModuleOfItsPart) {
  const auto config = ReadArchitectureConfig(ConfigOf(GetParam()).dump());
  ASSERT_TRUE(config.ok());
  const ModuleNames modules = ModulesOf(*config);
  const auto is_in = [](const std::vector<std::string>& names, const std::string& tensor) {
    return std::ranges::any_of(
        names, [&](const std::string& name) { return tensor.starts_with(name + "."); });
  };

  for (const TensorShape& tensor : TensorsOf(*config)) {
    switch (PartOf(tensor)) {
      case ModelPart::kLayer:
        EXPECT_TRUE(tensor.name.starts_with(absl::StrCat(modules.layer, tensor.layer, ".")))
            << tensor.name;
        break;
      case ModelPart::kNorm:
        EXPECT_TRUE(is_in(modules.norm, tensor.name)) << tensor.name;
        break;
      case ModelPart::kHead:
        EXPECT_TRUE(is_in(modules.head, tensor.name)) << tensor.name;
        break;
      case ModelPart::kEmbedding:
        EXPECT_TRUE(is_in(modules.embedding, tensor.name)) << tensor.name;
        break;
    }
  }
}

// Each key takes each of these values, also below rope_scaling and the like.
TEST_P(ArchitectureTest, SpoiltConfigurationIsReadOrRefused) {
  const nlohmann::json kSpoils[] = {nullptr,
                                    true,
                                    0,
                                    -1,
                                    1,
                                    3,
                                    1 << 12,
                                    1 << 30,
                                    INT64_MAX,
                                    UINT64_MAX,
                                    0.5,
                                    1e300,
                                    "x",
                                    nlohmann::json::array(),
                                    nlohmann::json::array({1, "x", nullptr}),
                                    nlohmann::json::object(),
                                    nlohmann::json::object({{"rope_type", "yarn"}})};
  const nlohmann::json config = ConfigOf(GetParam());
  const nlohmann::json keys = config.flatten();
  int64_t refused = 0;
  for (const auto& [key, value] : keys.items()) {
    for (const nlohmann::json& spoil : kSpoils) {
      nlohmann::json spoilt = config;
      spoilt[nlohmann::json::json_pointer(key)] = spoil;
      if (!IsRead(spoilt)) ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(ArchitecturesTest, EveryOneHasGoldens) {
  std::set<std::string> with_goldens;
  for (const std::string& name : RepositoryNames()) {
    const nlohmann::json config = ConfigOf(name);
    with_goldens.insert(config.value("text_config", config).at("model_type").get<std::string>());
  }
  for (const Architecture& architecture : Architectures()) {
    EXPECT_TRUE(with_goldens.contains(std::string(architecture.model_type)))
        << architecture.model_type;
  }
}

}  // namespace
}  // namespace modeld
