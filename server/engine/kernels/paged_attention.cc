#include "server/engine/kernels/paged_attention.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <vector>

#include "server/engine/kernels/attention_tile.h"

namespace modeld {
namespace {

// Query vectors of one tile: enough to use each loaded key several times, few enough that their
// scores stay in the second-level cache.
constexpr int64_t kTileQueries = 32;

struct Variant {
  const char* name;
  AttentionTileFunction float32;
  AttentionTileFunction bfloat16;
};

Variant ChooseVariant() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return {"avx512", avx512::AttendFloat32, avx512::AttendBFloat16};
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"avx2", avx2::AttendFloat32, avx2::AttendBFloat16};
  }
#endif
  return {"generic", generic::AttendFloat32, generic::AttendBFloat16};
}

const Variant& ThisMachine() {
  static const Variant kVariant = ChooseVariant();
  return kVariant;
}

int64_t ElementBytes(KernelDtype dtype) { return dtype == KernelDtype::kFloat32 ? 4 : 2; }

template <typename T>
void Store(const KvLayer& layer, const T* keys, const T* values, const KvRows& segment) {
  const int64_t padded = PaddedHeadDim(layer.value_dim);
  auto* all_keys = static_cast<T*>(layer.keys);
  auto* all_values = static_cast<T*>(layer.values);
  for (int64_t row = 0; row < segment.rows; ++row) {
    const int64_t position = segment.past + row;
    const int64_t block = segment.blocks[position / kKvBlockTokens];
    const int64_t slot = position % kKvBlockTokens;
    for (int64_t head = 0; head < layer.kv_heads; ++head) {
      const int64_t row_head = (segment.first_row + row) * layer.kv_heads + head;
      const T* key = keys + row_head * layer.head_dim;
      const int64_t block_head = block * layer.kv_heads + head;
      T* column = all_keys + block_head * layer.head_dim * kKvBlockTokens + slot;
      for (int64_t d = 0; d < layer.head_dim; ++d) column[d * kKvBlockTokens] = key[d];
      T* line = all_values + (block_head * kKvBlockTokens + slot) * padded;
      std::copy_n(values + row_head * layer.value_dim, layer.value_dim, line);
      std::fill(line + layer.value_dim, line + padded, T{});
    }
  }
}

// The tiles of one call, in the order in which threads take them.
std::vector<AttentionTile> TilesOf(const AttentionCall& call) {
  const KvLayer& layer = call.layer;
  const int64_t bytes = ElementBytes(layer.dtype);
  const int64_t group = call.heads / layer.kv_heads;
  const int64_t rows_max = std::max<int64_t>(1, kTileQueries / group);
  const int64_t key_head = layer.head_dim * kKvBlockTokens;
  const int64_t value_head = PaddedHeadDim(layer.value_dim) * kKvBlockTokens;
  std::vector<AttentionTile> tiles;
  for (const KvRows& segment : call.segments) {
    for (int64_t row = 0; row < segment.rows; row += rows_max) {
      for (int64_t head = 0; head < layer.kv_heads; ++head) {
        const int64_t row_head = (segment.first_row + row) * call.heads + head * group;
        tiles.push_back({
            .query = static_cast<const char*>(call.query) + row_head * layer.head_dim * bytes,
            .out = static_cast<char*>(call.out) + row_head * layer.value_dim * bytes,
            .query_stride = call.heads * layer.head_dim,
            .out_stride = call.heads * layer.value_dim,
            .rows = std::min(rows_max, segment.rows - row),
            .group = group,
            .head_dim = layer.head_dim,
            .value_dim = layer.value_dim,
            .past = segment.past + row,
            .blocks = segment.blocks.data(),
            .keys = static_cast<const char*>(layer.keys) + head * key_head * bytes,
            .values = static_cast<const char*>(layer.values) + head * value_head * bytes,
            .key_block_stride = layer.kv_heads * key_head,
            .value_block_stride = layer.kv_heads * value_head,
            .scale = call.scale,
            .softcap = call.softcap,
            .window = call.window,
            .sinks = call.sinks == nullptr ? nullptr : call.sinks + head * group,
            .scratch = nullptr,
        });
      }
    }
  }
  return tiles;
}

}  // namespace

void StoreKeysAndValues(const KvLayer& layer, const void* keys, const void* values,
                        std::span<const KvRows> segments) {
  for (const KvRows& segment : segments) {
    if (layer.dtype == KernelDtype::kFloat32) {
      Store(layer, static_cast<const float*>(keys), static_cast<const float*>(values), segment);
    } else {
      Store(layer, static_cast<const uint16_t*>(keys), static_cast<const uint16_t*>(values),
            segment);
    }
  }
}

void PagedAttention(const AttentionCall& call, ThreadPool& threads) {
  const std::vector<AttentionTile> tiles = TilesOf(call);
  const AttentionTileFunction attend =
      call.layer.dtype == KernelDtype::kFloat32 ? ThisMachine().float32 : ThisMachine().bfloat16;
  const int64_t group = call.heads / call.layer.kv_heads;
  const int64_t scratch_floats = AttentionScratchFloats(std::max(kTileQueries, group),
                                                        call.layer.head_dim, call.layer.value_dim);
  // Late rows see more tokens than early ones, so threads take tiles one by one.
  std::atomic<size_t> next = 0;
  const auto work = [&](int64_t begin, int64_t end) {
    if (begin == end) return;
    std::vector<float> scratch(scratch_floats);
    for (size_t at = next.fetch_add(1); at < tiles.size(); at = next.fetch_add(1)) {
      AttentionTile tile = tiles[at];
      tile.scratch = scratch.data();
      attend(tile);
    }
  };
  const auto workers = std::min<int64_t>(threads.threads(), static_cast<int64_t>(tiles.size()));
  threads.ParallelFor(workers, 1, work);
}

const char* PagedAttentionVariant() { return ThisMachine().name; }

}  // namespace modeld
