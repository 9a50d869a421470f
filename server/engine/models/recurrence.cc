#include "server/engine/models/recurrence.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

namespace modeld {
namespace {

// The same tokens of all sequences and heads: "batch" below is sequences * heads.
struct Chunk {
  at::Tensor query;      // [batch, tokens, key_dim]
  at::Tensor key;        // [batch, tokens, key_dim]
  at::Tensor value;      // [batch, tokens, value_dim]
  at::Tensor log_decay;  // [batch, tokens]
  at::Tensor beta;       // [batch, tokens], may be undefined
};

// Tokens [begin, begin + count) of a group, heads before tokens.
Chunk ChunkOf(const RecurrenceRows& rows, const RowGroup& group, int64_t begin, int64_t count) {
  const int64_t heads = rows.value.size(1);
  const auto take = [&](const at::Tensor& x) {
    if (!x.defined()) return x;
    const at::Tensor mine = group.RowsOf(x).narrow(1, begin, count).transpose(1, 2);
    const int64_t shared_by = heads / mine.size(1);
    return (shared_by == 1 ? mine : mine.repeat_interleave(shared_by, 1)).flatten(0, 1);
  };
  return {take(rows.query), take(rows.key), take(rows.value), take(rows.log_decay),
          take(rows.beta)};
}

// What the tokens read; `memory`, [batch, key_dim, value_dim], becomes that after the last one.
//
// With the decay from the chunk's beginning to token t as d_t, the memory after it is
// d_t M + sum over s <= t of d_t / d_s key_s^T u_s. By the delta rule u_t depends on the u before
// it, all linearly, which is a triangular system.
at::Tensor ReadChunk(const Chunk& chunk, at::Tensor& memory) {
  const int64_t tokens = chunk.log_decay.size(1);
  const at::Tensor decayed = chunk.log_decay.cumsum(1);      // [batch, tokens]
  const at::Tensor from_start = decayed.exp().unsqueeze(2);  // [batch, tokens, 1]
  const at::Tensor to_end = (decayed.narrow(1, tokens - 1, 1) - decayed).exp().unsqueeze(2);
  const at::Tensor later = at::ones({tokens, tokens}, decayed.options().dtype(at::kBool)).triu(1);
  const at::Tensor between = (decayed.unsqueeze(2) - decayed.unsqueeze(1))
                                 .masked_fill(later, -std::numeric_limits<float>::infinity())
                                 .exp();  // [batch, tokens, tokens], 0 above the diagonal
  const at::Tensor keys = chunk.key.transpose(1, 2);
  at::Tensor update = chunk.value;  // [batch, tokens, value_dim]
  if (chunk.beta.defined()) {
    const at::Tensor beta = chunk.beta.unsqueeze(2);
    update = beta * (update - from_start * at::bmm(chunk.key, memory));
    if (tokens > 1) {
      const at::Tensor system = beta * at::bmm(chunk.key, keys) * between;
      update = at::linalg_solve_triangular(system, update, /*upper=*/false, /*left=*/true,
                                           /*unitriangular=*/true);
    }
  }
  const at::Tensor read = from_start * at::bmm(chunk.query, memory) +
                          at::bmm(at::bmm(chunk.query, keys) * between, update);
  memory = from_start.narrow(1, tokens - 1, 1) * memory +
           at::bmm((chunk.key * to_end).transpose(1, 2), update);
  return read;
}

}  // namespace

at::Tensor Recur(const RecurrenceRows& rows, const at::Tensor& memories,
                 std::span<const RowGroup> groups) {
  const int64_t heads = rows.value.size(1);
  at::Tensor out = at::empty_like(rows.value);
  for (const RowGroup& group : groups) {
    at::Tensor memory = group.StateOf(memories).flatten(0, 1);
    std::vector<at::Tensor> parts;  // each [segments, tokens, heads, value_dim]
    for (int64_t begin = 0; begin < group.length; begin += kChunkTokens) {
      const int64_t count = std::min(kChunkTokens, group.length - begin);
      const at::Tensor read = ReadChunk(ChunkOf(rows, group, begin, count), memory);
      parts.push_back(read.unflatten(0, {group.segments, heads}).transpose(1, 2));
    }
    out.index_copy_(0, group.rows, at::cat(parts, 1).flatten(0, 1));
    memories.index_copy_(0, group.slots, memory.unflatten(0, {group.segments, heads}));
  }
  return out;
}

}  // namespace modeld
