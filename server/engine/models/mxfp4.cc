#include "server/engine/models/mxfp4.h"

#include <ATen/ATen.h>

namespace modeld {

at::Tensor DequantizeMxfp4(const at::Tensor& blocks, const at::Tensor& scales,
                           at::ScalarType dtype) {
  const at::Tensor numbers = at::tensor(
      {0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0},
      blocks.options().dtype(at::kFloat));
  const at::Tensor low = blocks.bitwise_and(0x0f);
  const at::Tensor high = blocks.bitwise_right_shift(4);
  const at::Tensor index = at::stack({low, high}, -1).flatten(-2);  // [rows, groups, 32]
  const at::Tensor exponents = scales.to(at::kInt) - 127;
  const at::Tensor values = numbers.index_select(0, index.flatten().to(at::kLong));
  return at::ldexp(values.view_as(index), exponents.unsqueeze(-1)).flatten(-2).to(dtype);
}

}  // namespace modeld
