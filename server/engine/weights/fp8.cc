#include "server/engine/weights/fp8.h"

#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"
#include "server/base/status.h"

namespace modeld {
namespace {

// Sign, four bits of exponent with bias 7, three of fraction; all ones is NaN, there is no
// infinity.
constexpr float FromE4M3(int bits) {
  const int exponent = bits >> 3 & 15;
  const int fraction = bits & 7;
  if ((bits & 127) == 127) return std::numeric_limits<float>::quiet_NaN();
  // The smallest step is 2^-9; it doubles with each exponent above 1.
  float value = static_cast<float>(exponent == 0 ? fraction : 8 + fraction) / 512;
  for (int i = 1; i < exponent; ++i) value *= 2;
  return bits >= 128 ? -value : value;
}

constexpr std::array<float, 256> MakeTable() {
  std::array<float, 256> table = {};
  for (int bits = 0; bits < 256; ++bits) table[bits] = FromE4M3(bits);
  return table;
}
constexpr std::array<float, 256> kValues = MakeTable();

float FromHalf(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t fraction = bits & 0x3ff;
  if (exponent == 0) {
    const float value = static_cast<float>(fraction) / (1 << 24);
    return sign != 0 ? -value : value;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

float ScaleAt(const Fp8Scale& scale, int64_t index) {
  if (scale.dtype == "F32") {
    float value = 0;
    std::memcpy(&value, scale.data + index * 4, 4);
    return value;
  }
  uint16_t bits = 0;
  std::memcpy(&bits, scale.data + index * 2, 2);
  if (scale.dtype == "BF16") return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  MODELD_CHECK(scale.dtype == "F16", "a scale of a dtype that CheckTensors lets through");
  return FromHalf(bits);
}

int64_t Blocks(int64_t length, int64_t block) { return (length + block - 1) / block; }

// The product of all lengths but the last two; absent when there are fewer or one is zero.
std::optional<int64_t> Matrices(const std::vector<int64_t>& shape) {
  if (shape.size() < 2) return std::nullopt;
  int64_t matrices = 1;
  for (size_t i = 0; i + 2 < shape.size(); ++i) matrices *= shape[i];
  return matrices;
}

}  // namespace

std::string Fp8ScaleName(std::string_view name) {
  return absl::StrCat(std::string(name), "_scale_inv");
}

std::optional<Fp8Layout> Fp8LayoutOf(const std::vector<int64_t>& shape,
                                     const std::vector<int64_t>& scale_shape,
                                     const Fp8Config& config) {
  const std::optional<int64_t> matrices = Matrices(shape);
  if (!matrices) return std::nullopt;
  Fp8Layout layout = {.rows = shape[shape.size() - 2], .columns = shape.back()};
  if (*matrices < 1 || layout.rows < 1 || layout.columns < 1) return std::nullopt;
  int64_t scales = 1;
  for (const int64_t length : scale_shape) {
    if (__builtin_mul_overflow(scales, length, &scales)) return std::nullopt;
  }
  if (scales == 1) {
    layout.rows *= *matrices;
    layout.block_rows = layout.rows;
    layout.block_columns = layout.columns;
  } else if (scales == *matrices * layout.rows) {
    layout.block_rows = 1;
    layout.block_columns = layout.columns;
  } else {
    layout.block_rows = config.block_rows;
    layout.block_columns = config.block_columns;
    if (layout.block_rows < 1 || scale_shape.size() != shape.size()) return std::nullopt;
    std::vector<int64_t> expected = shape;
    expected[shape.size() - 2] = Blocks(layout.rows, layout.block_rows);
    expected.back() = Blocks(layout.columns, layout.block_columns);
    if (expected != scale_shape) return std::nullopt;
  }
  layout.scale_rows = Blocks(layout.rows, layout.block_rows);
  layout.scale_columns = Blocks(layout.columns, layout.block_columns);
  return layout;
}

void DequantizeFp8(const std::byte* data, const Fp8Scale& scale, int64_t first_row,
                   std::span<float> rows) {
  const Fp8Layout& layout = scale.layout;
  const int64_t count = std::ssize(rows) / layout.columns;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = first_row + i;
    const int64_t matrix = row / layout.rows;
    const int64_t scale_row = matrix * layout.scale_rows + row % layout.rows / layout.block_rows;
    const std::byte* const from = data + row * layout.columns;
    float* const to = rows.data() + i * layout.columns;
    float factor = 0;
    for (int64_t column = 0; column < layout.columns; ++column) {
      if (column % layout.block_columns == 0) {
        factor = ScaleAt(scale, scale_row * layout.scale_columns + column / layout.block_columns);
      }
      to[column] = kValues[std::to_integer<uint8_t>(from[column])] * factor;
    }
  }
}

}  // namespace modeld
