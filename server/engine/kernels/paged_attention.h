// Attention of new tokens over keys and values that lie in blocks of 16 tokens, on the CPU.
// No libtorch here: rows and blocks are plain memory.
#pragma once

#include <cstdint>
#include <span>

#include "server/base/thread_pool.h"

namespace modeld {

// Tokens in a block: one AVX-512 register of float32.
inline constexpr int64_t kKvBlockTokens = 16;

enum class KernelDtype { kFloat32, kBFloat16 };

// Values of a head are padded to whole registers.
constexpr int64_t PaddedHeadDim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

// Keys and values of one layer. A token's key is a column, so that one load brings the same element
// of 16 keys; its value is a row.
struct KvLayer {
  void* keys;    // [blocks, kv_heads, head_dim, 16]
  void* values;  // [blocks, kv_heads, 16, PaddedHeadDim(value_dim)]
  int64_t kv_heads;
  int64_t head_dim;   // of a key
  int64_t value_dim;  // of a value
  KernelDtype dtype;
};

// The new tokens of one sequence: rows [first_row, first_row + rows) of the step's matrices.
struct KvRows {
  std::span<const int32_t> blocks;  // hold past + rows tokens
  int64_t past;                     // tokens whose keys and values are held already
  int64_t first_row;
  int64_t rows;
};

// Puts `keys` and `values`, [rows of all segments, kv_heads, head_dim] and the same with value_dim,
// into the blocks.
void StoreKeysAndValues(const KvLayer& layer, const void* keys, const void* values,
                        std::span<const KvRows> segments);

struct AttentionCall {
  KvLayer layer;
  const void* query;  // [rows, heads, head_dim]
  void* out;          // [rows, heads, value_dim]; may not overlap query
  int64_t heads;      // a multiple of kv_heads
  float scale;        // of the products of queries and keys
  std::span<const KvRows> segments;
  float softcap = 0;             // products s become softcap * tanh(s / softcap); 0: they do not
  int64_t window = 0;            // tokens that a token sees, itself included; 0: all before it
  const float* sinks = nullptr;  // [heads]: products with one more token, whose value is 0
};

// Causal: a token sees itself and all before it, or the last ones of them. Products, softmax and
// sums are float32 whatever the dtype; the result is rounded once.
void PagedAttention(const AttentionCall& call, ThreadPool& threads);

// The instruction set that PagedAttention uses here: "avx512", "avx2" or "generic".
const char* PagedAttentionVariant();

}  // namespace modeld
