// The kernel against libtorch's operators.
#include "server/engine/models/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
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
    const Pass kernel_pass = {{}, {}, segments, by_kernel, threads};
    const Pass operators_pass = {{}, {}, segments, by_operators, threads};

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

}  // namespace
}  // namespace modeld
