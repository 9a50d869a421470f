// What the layers of one forward pass share.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "server/base/thread_pool.h"
#include "server/engine/kernels/paged_attention.h"
#include "server/engine/models/kv_pool.h"
#include "server/engine/models/model_devices.h"
#include "server/engine/models/row_group.h"
#include "server/engine/models/state_pool.h"
#include "server/engine/weights/work_memory.h"

namespace modeld {

// Cosines and sines of the positions of all rows, both [rows, 1, rotary_dim] in the model's dtype.
struct Turns {
  at::Tensor cos;
  at::Tensor sin;
};

// Rows are the new tokens of all segments, one after the other. All tensors are on one device.
struct Pass {
  std::vector<Turns> turns = {};  // of each rope of the configuration
  at::Tensor query_scale = {};  // [rows, 1, 1], undefined where queries are not scaled by position
  std::vector<KvRows> segments;
  KvPool* kv = nullptr;           // null: the segments are whole texts, and nothing is kept
  ThreadPool* threads = nullptr;  // with kv
  // Of a model with layers other than attention; else null and empty.
  StatePool* states = nullptr;
  std::vector<RowGroup> groups = {};
  at::Tensor layer_inputs = {};  // [rows, layers, layer_input_size], undefined where there are none
  // Of whole texts: logits by distance, [heads, 2 * n - 1], of which the middle is distance 0.
  at::Tensor distance_logits = {};        // undefined where the model has none
  const ModelDevices* devices = nullptr;  // set while layers run

  // Brings the tensors to `device`.
  void MoveTo(at::Device device);
};

}  // namespace modeld
