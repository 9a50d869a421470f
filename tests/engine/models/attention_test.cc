// The kernel against libtorch's operators.
#include "server/engine/models/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "server/engine/kernels/paged_attention.h"

namespace modeld {
namespace {

struct Shape {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t value_dim;
  double softcap = 0;
  int64_t window = 0;
  bool sinks = false;
};

class AttentionTest : public testing::TestWithParam<Shape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         testing::Values(Shape{9, 3, 64, 64}, Shape{4, 4, 8, 8},
                                         Shape{4, 1, 20, 20}, Shape{64, 1, 16, 16},
                                         Shape{2, 2, 128, 128}, Shape{8, 1, 40, 24},
                                         Shape{4, 2, 16, 16, 5.0}, Shape{4, 2, 16, 16, 0, 1},
                                         Shape{4, 2, 16, 16, 0, 40}, Shape{4, 2, 16, 16, 0, 300},
                                         Shape{6, 2, 16, 16, 0, 0, true},
                                         Shape{8, 2, 64, 64, 30.0, 17, true}));

// Two sequences whose blocks are mixed: 700 tokens (several tiles of scores), then 3 and 21 more.
void Compare(const Shape& shape, at::ScalarType dtype, double tolerance) {
  at::manual_seed(1);
  KvPool by_kernel({.layers = {{shape.kv_heads, shape.head_dim, shape.value_dim}},
                    .blocks = 60,
                    .dtype = dtype,
                    .device = at::kCPU});
  KvPool by_operators(by_kernel.options());
  // What was never written must not count.
  for (const KvPool* pool : {&by_kernel, &by_operators}) {
    pool->keys(0).fill_(NAN);
    pool->values(0).fill_(pool == &by_kernel ? NAN : 0);
  }
  const AttentionOptions options = {.layer = 0,
                                    .scale = 1 / std::sqrt(static_cast<double>(shape.head_dim)),
                                    .softcap = shape.softcap,
                                    .window = shape.window,
                                    .sinks = shape.sinks ? at::randn({shape.heads}) : at::Tensor()};
  ThreadPool threads(2);
  std::vector<int32_t> first;
  std::vector<int32_t> second;
  for (int32_t i = 0; i < 30; ++i) {
    first.push_back(2 * i);
    second.push_back(59 - 2 * i);
  }
  const std::vector<std::vector<KvRows>> steps = {
      {{first, 0, 0, 230}, {second, 0, 230, 300}},
      {{first, 230, 0, 1}, {second, 300, 1, 17}},
      {{second, 317, 0, 1}, {first, 231, 1, 40}},
  };
  for (const std::vector<KvRows>& segments : steps) {
    const int64_t rows = segments.back().first_row + segments.back().rows;
    const auto random = [&](int64_t heads, int64_t size) {
      return at::randn({rows, heads, size}).to(dtype);
    };
    const QueryKeyValue qkv = {random(shape.heads, shape.head_dim),
                               random(shape.kv_heads, shape.head_dim),
                               random(shape.kv_heads, shape.value_dim)};
    const Pass kernel_pass = {.segments = segments, .kv = &by_kernel, .threads = &threads};
    const Pass operators_pass = {.segments = segments, .kv = &by_operators, .threads = &threads};

    const at::Tensor ours = AttendPaged(qkv, options, kernel_pass).to(at::kFloat);
    const at::Tensor theirs = AttendPagedByOperators(qkv, options, operators_pass).to(at::kFloat);

    EXPECT_LT((ours - theirs).abs().max().item<double>(), tolerance) << PagedAttentionVariant();
  }
}

TEST_P(AttentionTest, Float32IsWhatOperatorsCompute) { Compare(GetParam(), at::kFloat, 1e-5); }

// One unit in the last place of values up to 4.
TEST_P(AttentionTest, BFloat16IsWhatOperatorsCompute) {
  Compare(GetParam(), at::kBFloat16, 0.0157);
}

// Within whole texts: two of the same length, one of a row, and one that is computed in tiles.
class WholeAttentionTest : public testing::TestWithParam<Shape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, WholeAttentionTest,
                         testing::Values(Shape{4, 4, 8, 8}, Shape{8, 2, 16, 12},
                                         Shape{4, 2, 8, 8, 5.0}, Shape{4, 2, 8, 8, 0, 1},
                                         Shape{4, 4, 8, 8, 0, 40}));

constexpr int64_t kTexts[] = {33, 33, 1, 1100};

std::vector<KvRows> SegmentsOf(std::span<const int64_t> texts) {
  std::vector<KvRows> segments;
  int64_t first = 0;
  for (const int64_t rows : texts) {
    segments.push_back({.blocks = {}, .past = 0, .first_row = first, .rows = rows});
    first += rows;
  }
  return segments;
}

QueryKeyValue RandomRows(const Shape& shape, int64_t rows) {
  return {at::randn({rows, shape.heads, shape.head_dim}),
          at::randn({rows, shape.kv_heads, shape.head_dim}),
          at::randn({rows, shape.kv_heads, shape.value_dim})};
}

TEST_P(WholeAttentionTest, BackwardsIsWhatThePagedCacheGives) {
  const Shape& shape = GetParam();
  at::manual_seed(2);
  KvPool pool({.layers = {{shape.kv_heads, shape.head_dim, shape.value_dim}},
               .blocks = 80,
               .dtype = at::kFloat,
               .device = at::kCPU});
  ThreadPool threads(1);
  std::vector<std::vector<int32_t>> blocks;
  std::vector<KvRows> paged = SegmentsOf(kTexts);
  for (KvRows& segment : paged) {
    ASSERT_TRUE(
        pool.Take((segment.rows + kKvBlockTokens - 1) / kKvBlockTokens, blocks.emplace_back()));
  }
  for (size_t i = 0; i < paged.size(); ++i) paged[i].blocks = blocks[i];
  const QueryKeyValue rows = RandomRows(shape, 1167);
  const AttentionOptions options = {.scale = 0.3, .softcap = shape.softcap, .window = shape.window};

  const at::Tensor whole = AttendWhole(rows, options, {.segments = SegmentsOf(kTexts)});
  const at::Tensor expected =
      AttendPaged(rows, options, {.segments = paged, .kv = &pool, .threads = &threads});

  EXPECT_LT((whole - expected).abs().max().item<double>(), 1e-5);
}

// A text that is turned round sees after a token what it saw before it.
TEST_P(WholeAttentionTest, BothWaysIsTheSameForATextTurnedRound) {
  const Shape& shape = GetParam();
  at::manual_seed(3);
  const QueryKeyValue rows = RandomRows(shape, 1100);
  const QueryKeyValue turned = {rows.query.flip({0}), rows.key.flip({0}), rows.value.flip({0})};
  const AttentionOptions options = {
      .scale = 0.3, .softcap = shape.softcap, .window = shape.window, .both_ways = true};
  const std::vector<KvRows> one = SegmentsOf(std::span(kTexts).last(1));

  const at::Tensor ahead = AttendWhole(rows, options, {.segments = one});
  const at::Tensor back = AttendWhole(turned, options, {.segments = one});

  EXPECT_LT((ahead - back.flip({0})).abs().max().item<double>(), 1e-5);
  // The first token sees others, unless the window is only itself.
  const bool sees_others =
      (ahead[0] - rows.value[0].repeat_interleave(shape.heads / shape.kv_heads, 0))
          .abs()
          .max()
          .item<double>() > 1e-3;
  EXPECT_EQ(sees_others, shape.window != 1);
}

}  // namespace
}  // namespace modeld
