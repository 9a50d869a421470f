// Segments of one length, which layers with recurrent state run side by side.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {

struct RowGroup {
  int64_t segments;
  int64_t length;    // tokens of each
  at::Tensor rows;   // int64 [segments * length]: of the pass, one segment after the other
  at::Tensor slots;  // int64 [segments], in the pool of states
  at::Tensor fresh;  // bool [segments]: holds no token yet; undefined where all hold some

  // Of [rows of the pass, ...] those of the group: [segments, length, ...].
  at::Tensor RowsOf(const at::Tensor& x) const;
  // Of a pool [slots, ...] what the group's sequences keep, zeros where that is nothing yet:
  // [segments, ...].
  at::Tensor StateOf(const at::Tensor& pool) const;
};

// `slots` are those of `segments`.
std::vector<RowGroup> GroupRows(std::span<const KvRows> segments, std::span<const int64_t> slots,
                                at::Device device);

}  // namespace modeld
