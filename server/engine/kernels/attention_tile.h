// The unit of work of PagedAttention, compiled once for each instruction set.
#pragma once

#include <cstdint>

namespace modeld {

// A few rows of one sequence, all query heads of one key-value head. Strides count elements.
struct AttentionTile {
  const void* query;  // of the first row and head
  void* out;
  int64_t query_stride;  // from row to row
  int64_t out_stride;
  int64_t rows;
  int64_t group;          // query heads
  int64_t head_dim;       // of queries and keys
  int64_t value_dim;      // of values and out
  int64_t past;           // tokens before the first row
  const int32_t* blocks;  // of the sequence
  const void* keys;       // of this key-value head in block 0
  const void* values;
  int64_t key_block_stride;
  int64_t value_block_stride;
  float scale;
  float softcap;       // 0: none
  int64_t window;      // 0: none
  const float* sinks;  // [group], or null
  float* scratch;      // AttentionScratchFloats(rows * group, head_dim, value_dim)
};

// Tokens whose scores are held at once.
inline constexpr int64_t kScoreTokens = 256;

// Floats of scratch for `queries` query vectors.
constexpr int64_t AttentionScratchFloats(int64_t queries, int64_t head_dim, int64_t value_dim) {
  const int64_t padded_queries = (queries + 3) / 4 * 4;
  const int64_t padded_dim = (value_dim + 15) / 16 * 16;
  return padded_queries * (head_dim + padded_dim + kScoreTokens + 2);
}

using AttentionTileFunction = void (*)(const AttentionTile& tile);

namespace generic {
void AttendFloat32(const AttentionTile& tile);
void AttendBFloat16(const AttentionTile& tile);
}  // namespace generic
namespace avx2 {
void AttendFloat32(const AttentionTile& tile);
void AttendBFloat16(const AttentionTile& tile);
}  // namespace avx2
namespace avx512 {
void AttendFloat32(const AttentionTile& tile);
void AttendBFloat16(const AttentionTile& tile);
}  // namespace avx512

}  // namespace modeld
