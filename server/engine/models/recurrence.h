// Recurrences over the tokens of a sequence whose memory is a matrix for each head: the gated delta
// rule (https://arxiv.org/abs/2412.06464) and Mamba 2 (https://arxiv.org/abs/2405.21060).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>

#include "server/engine/models/row_group.h"
#include "server/engine/weights/work_memory.h"

namespace modeld {

// All float32. As many heads follow each other as there are for one key head, and share its query
// and key.
struct RecurrenceRows {
  at::Tensor query;      // [rows, key_heads, key_dim]
  at::Tensor key;        // [rows, key_heads, key_dim]
  at::Tensor value;      // [rows, heads, value_dim]
  at::Tensor log_decay;  // [rows, heads], at most 0
  at::Tensor beta;       // [rows, heads], of the delta rule; undefined without it
};

// A token makes of a head's memory M, [key_dim, value_dim], first M' = exp(log_decay) M, then
// M' + key^T u, and reads query (M' + key^T u). Here u is the value, or by the delta rule
// beta (value - key M').
//
// Returns what all rows read, [rows, heads, value_dim]. `memories` is the layer's
// StatePool::memory(), from which sequences go on and which it leaves as they end.
at::Tensor Recur(const RecurrenceRows& rows, const at::Tensor& memories,
                 std::span<const RowGroup> groups);

}  // namespace modeld
