#include "server/engine/models/tensor_source.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

// tiny-llama with the first layer's query projection as E4M3: every number 1.5, scales 1, 2, 3, ...
// for blocks of 16 by 32.
struct Fp8Repository {
  TempDir folder;
  ArchitectureConfig config;
  std::vector<int64_t> shape;

  static constexpr char kName[] = "model.layers.0.self_attn.q_proj.weight";

  Fp8Repository() {
    const std::string tiny = std::string(MODELD_TEST_DATA) + "/models/tiny-llama/";
    std::ifstream config_stream(tiny + "config.json");
    nlohmann::json json = nlohmann::json::parse(config_stream);
    json["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {16, 32}}};
    config = ReadArchitectureConfig(json.dump()).value();
    std::ifstream stream(tiny + "model.safetensors", std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(stream), {}};
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, file.data(), 8);
    nlohmann::json header = nlohmann::json::parse(file.substr(8, header_bytes));
    header.erase("__metadata__");
    std::string data;
    const auto add = [&](const std::string& name, const std::string& bytes) {
      header[name]["data_offsets"] = {data.size(), data.size() + bytes.size()};
      data += bytes;
    };
    const nlohmann::json stored = header;
    for (const auto& [name, tensor] : stored.items()) {
      const int64_t begin = tensor.at("data_offsets")[0];
      const int64_t end = tensor.at("data_offsets")[1];
      if (name != kName) add(name, file.substr(8 + header_bytes + begin, end - begin));
    }
    shape = header.at(kName).at("shape").get<std::vector<int64_t>>();
    header[kName]["dtype"] = "F8_E4M3";
    add(kName, std::string(shape[0] * shape[1], '\x3c'));  // 1.5
    const std::vector<int64_t> blocks = {shape[0] / 16, shape[1] / 32};
    std::vector<float> scales(blocks[0] * blocks[1]);
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
    const std::string scale_name = std::string(kName) + "_scale_inv";
    header[scale_name] = {{"dtype", "F32"}, {"shape", blocks}};
    add(scale_name, {reinterpret_cast<const char*>(scales.data()), scales.size() * 4});
    const std::string text = header.dump();
    const uint64_t length = text.size();
    std::ofstream out(folder.path() + "/model.safetensors", std::ios::binary);
    out.write(reinterpret_cast<const char*>(&length), 8);
    out << text << data;
  }
};

TEST(TensorSourceTest, Fp8WeightsAreTheirNumbersTimesTheScales) {
  const Fp8Repository repository;
  const auto weights = WeightSet::Open(repository.folder.path(), repository.config);
  ASSERT_THAT(weights, IsOk());
  const int64_t blocks = repository.shape[1] / 32;
  const at::Tensor scales = at::arange(1, repository.shape[0] / 16 * blocks + 1, at::kFloat)
                                .view({-1, blocks})
                                .repeat_interleave(16, 0)
                                .repeat_interleave(32, 1);

  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat}) {
    const TensorSource source(*weights, dtype, at::kCPU, [](int64_t) {});
    const at::Tensor got = source.Get(Fp8Repository::kName);

    EXPECT_EQ(got.scalar_type(), dtype);
    EXPECT_TRUE(at::equal(got, (scales * 1.5).to(dtype)));
  }
}

}  // namespace
}  // namespace modeld
