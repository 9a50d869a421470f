#include "server/engine/weights/fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"

namespace modeld {
namespace {

using Json = nlohmann::json;

std::string Bytes(const Json& hex) { return absl::HexStringToBytes(hex.get<std::string>()); }

std::vector<float> Floats(const Json& hex) {
  const std::string bytes = Bytes(hex);
  std::vector<float> floats(bytes.size() / 4);
  std::memcpy(floats.data(), bytes.data(), bytes.size());
  return floats;
}

Json ReadGoldens() {
  std::ifstream stream(std::string(MODELD_TEST_DATA) + "/torch_files/fp8.json");
  return Json::parse(stream);
}

const std::byte* Data(const std::string& bytes) {
  return reinterpret_cast<const std::byte*>(bytes.data());
}

TEST(Fp8Test, EveryNumberIsTorchs) {
  const std::vector<float> expected = Floats(ReadGoldens().at("every"));
  ASSERT_EQ(expected.size(), 256U);
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const float one = 1;
  const std::string scale_bytes(reinterpret_cast<const char*>(&one), 4);
  const Fp8Scale scale = {.layout = *Fp8LayoutOf({1, 256}, {1}, {}),
                          .dtype = "F32",
                          .data = Data(scale_bytes),
                          .file = nullptr};
  std::vector<float> got(256);

  DequantizeFp8(Data(all), scale, 0, got);

  for (int i = 0; i < 256; ++i) {
    if (std::isnan(expected[i])) {
      EXPECT_TRUE(std::isnan(got[i])) << i;
    } else {
      EXPECT_EQ(got[i], expected[i]) << i;
      EXPECT_EQ(std::signbit(got[i]), std::signbit(expected[i])) << i;
    }
  }
}

TEST(Fp8Test, MatricesTimesTheirScalesAreTorchs) {
  const Json goldens = ReadGoldens();
  ASSERT_EQ(goldens.at("cases").size(), 4U);
  for (const Json& golden : goldens.at("cases")) {
    SCOPED_TRACE(golden.at("shape").dump() + golden.at("scale_shape").dump());
    const Fp8Config config = {.block_rows = golden.at("block")[0],
                              .block_columns = golden.at("block")[1]};
    const std::string weight = Bytes(golden.at("weight"));
    const std::string scales = Bytes(golden.at("scale"));
    const auto layout = Fp8LayoutOf(golden.at("shape"), golden.at("scale_shape"), config);
    ASSERT_TRUE(layout.has_value());
    const Fp8Scale scale = {.layout = *layout,
                            .dtype = golden.at("scale_dtype"),
                            .data = Data(scales),
                            .file = nullptr};
    const std::vector<float> expected = Floats(golden.at("result"));
    std::vector<float> got(expected.size());

    // In two pieces, as large tensors are.
    const int64_t columns = layout->columns;
    DequantizeFp8(Data(weight), scale, 0, std::span(got).first(3 * columns));
    DequantizeFp8(Data(weight), scale, 3, std::span(got).subspan(3 * columns));

    EXPECT_EQ(got, expected);
  }
}

TEST(Fp8Test, ScalesOfOtherShapesDoNotFit) {
  const Fp8Config config = {.block_rows = 128, .block_columns = 128};

  EXPECT_TRUE(Fp8LayoutOf({300, 130}, {3, 2}, config));
  EXPECT_FALSE(Fp8LayoutOf({300, 130}, {2, 2}, config));
  EXPECT_FALSE(Fp8LayoutOf({300, 130}, {3, 2, 1}, config));
  EXPECT_FALSE(Fp8LayoutOf({300, 130}, {3, 2}, {}));
  EXPECT_FALSE(Fp8LayoutOf({300}, {3}, config));
  EXPECT_FALSE(Fp8LayoutOf({0, 130}, {0, 2}, config));
  EXPECT_FALSE(Fp8LayoutOf({300, 130}, {int64_t{1} << 40, int64_t{1} << 40}, config));
}

}  // namespace
}  // namespace modeld
