// Weights of eight bits in the format E4M3 and their scales, as "fp8" repositories have them: a
// weight is its number times the scale of its block. The scale of NAME is NAME_scale_inv.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/engine/weights/config.h"

namespace modeld {

inline constexpr char kFp8[] = "F8_E4M3";

std::string Fp8ScaleName(std::string_view name);

// How scales lie over a tensor, which is taken as a list of matrices.
struct Fp8Layout {
  int64_t rows = 0;  // of one matrix
  int64_t columns = 0;
  int64_t block_rows = 0;
  int64_t block_columns = 0;
  int64_t scale_rows = 0;  // of one matrix
  int64_t scale_columns = 0;
};

// Absent when the shapes do not go together: a scale is one number, one for each row, or one for
// each of `config`'s blocks.
std::optional<Fp8Layout> Fp8LayoutOf(const std::vector<int64_t>& shape,
                                     const std::vector<int64_t>& scale_shape,
                                     const Fp8Config& config);

// The numbers of a scale in a mapped file, F32, F16 or BF16.
struct Fp8Scale {
  Fp8Layout layout;
  std::string dtype;
  const std::byte* data = nullptr;
  std::shared_ptr<const void> file;  // keeps `data` alive
};

// Writes float32 weights of whole rows, counted through all matrices, from `first_row` on. `data`
// is the first byte of the tensor.
void DequantizeFp8(const std::byte* data, const Fp8Scale& scale, int64_t first_row,
                   std::span<float> rows);

}  // namespace modeld
