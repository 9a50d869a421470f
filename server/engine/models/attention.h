// Attention over the paged cache: our kernel on the CPU, libtorch's operators elsewhere.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/engine/models/pass.h"

namespace modeld {

struct QueryKeyValue {
  at::Tensor query;  // [rows, heads, head_dim], contiguous like the others
  at::Tensor key;    // [rows, kv_heads, head_dim]
  at::Tensor value;  // [rows, kv_heads, head_dim]
};

// Stores the keys and values of all rows in `layer` of the cache and attends to everything each row
// may see. Returns [rows, heads, head_dim].
at::Tensor AttendPaged(const QueryKeyValue& rows, int64_t layer, const Pass& pass);

// The same out of libtorch's operators, for any device.
at::Tensor AttendPagedByOperators(const QueryKeyValue& rows, int64_t layer, const Pass& pass);

}  // namespace modeld
