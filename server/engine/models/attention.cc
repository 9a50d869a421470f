#include "server/engine/models/attention.h"

#include <ATen/ATen.h>

#include <limits>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {
namespace {

// Where the rows of a segment lie in the pool: blocks and slots in them.
std::pair<at::Tensor, at::Tensor> PlacesOf(const KvRows& segment, at::Device device) {
  std::vector<int64_t> blocks;
  std::vector<int64_t> slots;
  for (int64_t position = segment.past; position < segment.past + segment.rows; ++position) {
    blocks.push_back(segment.blocks[position / kKvBlockTokens]);
    slots.push_back(position % kKvBlockTokens);
  }
  return {at::tensor(blocks, at::kLong).to(device), at::tensor(slots, at::kLong).to(device)};
}

// The first `tokens` keys or values of a segment, as [heads, tokens, head_dim]. Query heads of one
// group share a key-value head.
at::Tensor Gathered(const at::Tensor& by_token, int64_t tokens, int64_t group) {
  const at::Tensor flat = by_token.flatten(1, 2).narrow(1, 0, tokens).to(at::kFloat);
  return flat.repeat_interleave(group, 0);
}

}  // namespace

at::Tensor AttendPaged(const QueryKeyValue& rows, const AttentionOptions& options,
                       const Pass& pass) {
  const auto dtype = rows.query.scalar_type();
  const bool has_kernel = rows.query.is_cpu() && (dtype == at::kFloat || dtype == at::kBFloat16);
  if (!has_kernel) return AttendPagedByOperators(rows, options, pass);
  const at::Tensor query = rows.query.contiguous();
  const KvShape& shape = pass.kv->options().layers[options.layer];
  const KvLayer cache = {
      .keys = pass.kv->keys(options.layer).data_ptr(),
      .values = pass.kv->values(options.layer).data_ptr(),
      .kv_heads = shape.heads,
      .head_dim = shape.key_dim,
      .value_dim = shape.value_dim,
      .dtype = dtype == at::kFloat ? KernelDtype::kFloat32 : KernelDtype::kBFloat16,
  };
  if (rows.key.defined()) {
    StoreKeysAndValues(cache, rows.key.contiguous().data_ptr(), rows.value.contiguous().data_ptr(),
                       pass.segments);
  }
  at::Tensor out = at::empty({query.size(0), query.size(1), cache.value_dim}, query.options());
  PagedAttention({.layer = cache,
                  .query = query.data_ptr(),
                  .out = out.data_ptr(),
                  .heads = query.size(1),
                  .scale = static_cast<float>(options.scale),
                  .segments = pass.segments,
                  .softcap = static_cast<float>(options.softcap),
                  .window = options.window,
                  .sinks = options.sinks.defined() ? options.sinks.data_ptr<float>() : nullptr},
                 *pass.threads);
  return out;
}

at::Tensor AttendPagedByOperators(const QueryKeyValue& rows, const AttentionOptions& options,
                                  const Pass& pass) {
  const at::Device device = rows.query.device();
  const KvShape& shape = pass.kv->options().layers[options.layer];
  const int64_t group = rows.query.size(1) / shape.heads;
  at::Tensor keys = pass.kv->keys(options.layer);
  at::Tensor values = pass.kv->values(options.layer).narrow(3, 0, shape.value_dim);
  std::vector<at::Tensor> outs;
  for (const KvRows& segment : pass.segments) {
    const auto [blocks, slots] = PlacesOf(segment, device);
    const auto mine = [&](const at::Tensor& x) {
      return x.narrow(0, segment.first_row, segment.rows);
    };
    if (rows.key.defined()) {
      // Indexed dimensions with a slice between them come first: [rows, kv_heads, head_dim].
      keys.permute({0, 3, 1, 2}).index_put_({blocks, slots}, mine(rows.key));
      values.permute({0, 2, 1, 3}).index_put_({blocks, slots}, mine(rows.value));
    }

    const int64_t tokens = segment.past + segment.rows;
    const std::vector<int64_t> all(segment.blocks.begin(), segment.blocks.end());
    const at::Tensor held = at::tensor(all, at::kLong).to(device);
    const at::Tensor k = Gathered(keys.index_select(0, held).permute({1, 0, 3, 2}), tokens, group);
    const at::Tensor v =
        Gathered(values.index_select(0, held).permute({1, 0, 2, 3}), tokens, group);
    const at::Tensor q = mine(rows.query).permute({1, 0, 2}).to(at::kFloat);
    at::Tensor scores = at::matmul(q, k.transpose(1, 2)) * options.scale;  // [heads, rows, tokens]
    if (options.softcap > 0) scores = at::tanh(scores / options.softcap) * options.softcap;
    const at::Tensor ones = at::ones({segment.rows, tokens}, q.options().dtype(at::kBool));
    at::Tensor hidden = ones.triu(segment.past + 1);
    if (options.window > 0) {
      hidden = at::logical_or(hidden, ones.tril(segment.past - options.window));
    }
    scores = scores.masked_fill(hidden, -std::numeric_limits<float>::infinity());
    if (options.sinks.defined()) {
      const at::Tensor sinks = options.sinks.view({-1, 1, 1}).expand({-1, segment.rows, 1});
      scores = at::cat({scores, sinks}, -1);
    }
    const at::Tensor weights = at::softmax(scores, -1).narrow(-1, 0, tokens);
    outs.push_back(at::matmul(weights, v).permute({1, 0, 2}));
  }
  return at::cat(outs).to(rows.query.scalar_type()).contiguous();
}

}  // namespace modeld
