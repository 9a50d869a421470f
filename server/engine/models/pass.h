// What the layers of one forward pass share.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "server/base/thread_pool.h"
#include "server/engine/kernels/paged_attention.h"
#include "server/engine/models/kv_pool.h"

namespace modeld {

// Rows are the new tokens of all segments, one after the other.
struct Pass {
  at::Tensor cos;  // [rows, 1, head_dim], in the model's dtype
  at::Tensor sin;
  std::vector<KvRows> segments;
  KvPool& kv;
  ThreadPool& threads;
};

}  // namespace modeld
