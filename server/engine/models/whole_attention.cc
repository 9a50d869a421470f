#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "server/engine/models/attention.h"

namespace modeld {
namespace {

// Texts of one length: [texts, heads, tokens, dim], float32.
struct Texts {
  at::Tensor query;
  at::Tensor key;
  at::Tensor value;
};

// Which keys [first, first + count) the queries [begin, begin + rows) may see some of.
struct Tile {
  int64_t begin;
  int64_t rows;
  int64_t first;
  int64_t count;
};

Tile TileAt(int64_t begin, int64_t rows, int64_t tokens, const AttentionOptions& options) {
  const int64_t window = options.window;
  const int64_t first = window > 0 ? std::max<int64_t>(0, begin - window + 1) : 0;
  int64_t end = options.both_ways ? tokens : begin + rows;
  if (options.both_ways && window > 0) end = std::min(tokens, begin + rows - 1 + window);
  return {begin, rows, first, end - first};
}

// Key minus query, [rows, count].
at::Tensor DistancesIn(const Tile& tile, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  return at::arange(tile.first, tile.first + tile.count, options) -
         at::arange(tile.begin, tile.begin + tile.rows, options).unsqueeze(1);
}

at::Tensor AttendTile(const Texts& texts, const Tile& tile, const AttentionOptions& options,
                      const at::Tensor& distance_logits) {
  const at::Tensor query = texts.query.narrow(2, tile.begin, tile.rows);
  const at::Tensor key = texts.key.narrow(2, tile.first, tile.count);
  at::Tensor scores = at::matmul(query, key.transpose(2, 3)) * options.scale;
  if (options.softcap > 0) scores = at::tanh(scores / options.softcap) * options.softcap;
  const bool hides = !options.both_ways || options.window > 0;
  if (hides || distance_logits.defined()) {
    const at::Tensor distances = DistancesIn(tile, query.device());
    if (distance_logits.defined()) {
      const at::Tensor index = distances + distance_logits.size(1) / 2;
      scores = scores + distance_logits.index_select(1, index.flatten())
                            .view({distance_logits.size(0), tile.rows, tile.count});
    }
    if (hides) {
      at::Tensor hidden = options.both_ways ? distances.abs() >= options.window : distances > 0;
      if (!options.both_ways && options.window > 0) {
        hidden = at::logical_or(hidden, distances <= -options.window);
      }
      scores = scores.masked_fill(hidden, -std::numeric_limits<float>::infinity());
    }
  }
  return at::matmul(at::softmax(scores, -1), texts.value.narrow(2, tile.first, tile.count));
}

// [texts, heads, tokens, value_dim].
at::Tensor AttendTexts(const Texts& texts, const AttentionOptions& options,
                       const at::Tensor& distance_logits) {
  const int64_t tokens = texts.query.size(2);
  const int64_t row_scores = texts.query.size(0) * texts.query.size(1) * tokens;
  const int64_t rows_max = std::max<int64_t>(1, kScoresMax / row_scores);
  std::vector<at::Tensor> outs;
  for (int64_t begin = 0; begin < tokens; begin += rows_max) {
    const Tile tile = TileAt(begin, std::min(rows_max, tokens - begin), tokens, options);
    outs.push_back(AttendTile(texts, tile, options, distance_logits));
  }
  return at::cat(outs, 2);
}

}  // namespace

at::Tensor AttendWhole(const QueryKeyValue& rows, const AttentionOptions& options,
                       const Pass& pass) {
  const int64_t heads = rows.query.size(1);
  const int64_t group = heads / rows.key.size(1);
  std::vector<at::Tensor> outs;
  for (size_t first = 0; first < pass.segments.size();) {
    const int64_t tokens = pass.segments[first].rows;
    // Neighbours of the same length are one multiplication.
    size_t end = first + 1;
    while (end < pass.segments.size() && pass.segments[end].rows == tokens) ++end;
    const auto count = static_cast<int64_t>(end - first);
    const auto by_text = [&](const at::Tensor& x) {
      return x.narrow(0, pass.segments[first].first_row, count * tokens)
          .reshape({count, tokens, x.size(1), x.size(2)})
          .transpose(1, 2)
          .to(at::kFloat);
    };
    // Query heads of one group share a key-value head.
    const auto for_queries = [&](const at::Tensor& x) {
      return group == 1 ? by_text(x) : by_text(x).repeat_interleave(group, 1);
    };
    const Texts texts = {.query = by_text(rows.query),
                         .key = for_queries(rows.key),
                         .value = for_queries(rows.value)};
    outs.push_back(AttendTexts(texts, options, pass.distance_logits).transpose(1, 2).flatten(0, 1));
    first = end;
  }
  return at::cat(outs).to(rows.query.scalar_type());
}

}  // namespace modeld
