// Weights of four bits, E2M1, with one power of two for each 32 of them
// (https://www.opencompute.org/documents/ocp-microscaling-formats-mx-v1-0-spec-final-pdf).
#pragma once

#include <ATen/core/Tensor.h>

namespace modeld {

// blocks: bytes [rows, groups, 16], two numbers in each, the low half first; scales: bytes
// [rows, groups], exponents above -127. Returns [rows, 32 * groups] in `dtype`, which holds every
// such number exactly where it is bfloat16 or float32.
at::Tensor DequantizeMxfp4(const at::Tensor& blocks, const at::Tensor& scales,
                           at::ScalarType dtype);

}  // namespace modeld
