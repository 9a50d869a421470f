// Attention over the paged cache, with our kernel on the CPU and libtorch's operators elsewhere;
// and within whole texts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "server/engine/models/pass.h"

namespace modeld {

struct QueryKeyValue {
  at::Tensor query;  // [rows, heads, head_dim]
  at::Tensor key;    // [rows, kv_heads, head_dim]; undefined where the cache has them already
  at::Tensor value;  // [rows, kv_heads, value_dim]; with key
};

// How one layer attends; see AttentionCall.
struct AttentionOptions {
  int64_t layer = 0;  // of the cache
  double scale = 1;
  double softcap = 0;
  int64_t window = 0;
  bool both_ways = false;  // see LayerConfig::window; of whole texts only
  at::Tensor sinks;        // float32 [heads], or undefined
};

// Stores the keys and values of all rows, if there are any, in the cache and attends to everything
// each row may see. Returns [rows, heads, value_dim].
at::Tensor AttendPaged(const QueryKeyValue& rows, const AttentionOptions& options,
                       const Pass& pass);

// The same within whole texts, which see nothing but themselves.
at::Tensor AttendWhole(const QueryKeyValue& rows, const AttentionOptions& options,
                       const Pass& pass);

// As AttendPaged, out of libtorch's operators, for any device.
at::Tensor AttendPagedByOperators(const QueryKeyValue& rows, const AttentionOptions& options,
                                  const Pass& pass);

}  // namespace modeld
