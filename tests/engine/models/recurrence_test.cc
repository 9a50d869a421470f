#include "server/engine/models/recurrence.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace modeld {
namespace {

constexpr int64_t kKeyHeads = 2;
constexpr int64_t kHeads = 4;
constexpr int64_t kKeyDim = 5;
constexpr int64_t kValueDim = 3;

RecurrenceRows RandomRows(int64_t rows, bool delta_rule) {
  at::manual_seed(1);
  RecurrenceRows made = {.query = at::randn({rows, kKeyHeads, kKeyDim}),
                         .key = at::randn({rows, kKeyHeads, kKeyDim}),
                         .value = at::randn({rows, kHeads, kValueDim}),
                         .log_decay = -at::rand({rows, kHeads}),
                         .beta = {}};
  // Unit keys, as the delta rule has them: others would let the memory grow without bound.
  made.key = made.key / made.key.norm(2, {-1}, /*keepdim=*/true);
  if (delta_rule) made.beta = at::rand({rows, kHeads});
  return made;
}

// The definition, one token and one head after the other in float64.
at::Tensor OneByOne(const RecurrenceRows& rows, int64_t first, int64_t count) {
  at::Tensor out = at::zeros({count, kHeads, kValueDim}, at::kDouble);
  for (int64_t head = 0; head < kHeads; ++head) {
    const int64_t key_head = head / (kHeads / kKeyHeads);
    at::Tensor memory = at::zeros({kKeyDim, kValueDim}, at::kDouble);
    for (int64_t token = 0; token < count; ++token) {
      const at::Tensor key = rows.key[first + token][key_head].to(at::kDouble);
      at::Tensor update = rows.value[first + token][head].to(at::kDouble);
      memory = memory * std::exp(rows.log_decay[first + token][head].item<double>());
      if (rows.beta.defined()) {
        update = (update - at::matmul(key, memory)) * rows.beta[first + token][head].item<double>();
      }
      memory = memory + at::outer(key, update);
      out[token][head] = at::matmul(rows.query[first + token][key_head].to(at::kDouble), memory);
    }
  }
  return out;
}

// Segments of `lengths` behind each other in the rows, each the first of a new sequence in a slot
// of its own.
std::vector<RowGroup> FreshGroups(const std::vector<int64_t>& lengths) {
  std::vector<KvRows> segments;
  std::vector<int64_t> slots;
  int64_t row = 0;
  for (const int64_t length : lengths) {
    segments.push_back({.blocks = {}, .past = 0, .first_row = row, .rows = length});
    slots.push_back(std::ssize(slots));
    row += length;
  }
  return GroupRows(segments, slots, at::kCPU);
}

class RecurrenceTest : public testing::TestWithParam<bool> {};

INSTANTIATE_TEST_SUITE_P(Rules, RecurrenceTest, testing::Bool(),
                         [](const auto& test) { return test.param ? "DeltaRule" : "Mamba"; });

// Some sequences are longer than a chunk, and not by whole ones.
TEST_P(RecurrenceTest, ChunksOfSequencesOfAnyLengthReadWhatTokensOneByOneDo) {
  const std::vector<int64_t> lengths = {1, 150, 7, 64, 7, 65};
  const RecurrenceRows rows = RandomRows(294, GetParam());
  const at::Tensor memories = at::full({6, kHeads, kKeyDim, kValueDim}, NAN);

  const at::Tensor read = Recur(rows, memories, FreshGroups(lengths));

  int64_t row = 0;
  for (const int64_t length : lengths) {
    const at::Tensor expected = OneByOne(rows, row, length);
    const at::Tensor distance = (read.narrow(0, row, length) - expected).abs();
    EXPECT_LT(distance.max().item<double>(), 1e-4) << "of " << length << " tokens";
    row += length;
  }
}

TEST_P(RecurrenceTest, SequenceGoesOnFromWhatItsSlotHolds) {
  const RecurrenceRows rows = RandomRows(40, GetParam());
  const at::Tensor memories = at::full({2, kHeads, kKeyDim, kValueDim}, NAN);
  const at::Tensor expected = OneByOne(rows, 0, 40);
  std::vector<KvRows> segments = {{.blocks = {}, .past = 0, .first_row = 0, .rows = 33}};
  const std::vector<int64_t> slots = {1};
  at::Tensor read = Recur(rows, memories, GroupRows(segments, slots, at::kCPU));
  EXPECT_LT((read.narrow(0, 0, 33) - expected.narrow(0, 0, 33)).abs().max().item<double>(), 1e-4);

  segments[0] = {.blocks = {}, .past = 33, .first_row = 33, .rows = 7};
  read = Recur(rows, memories, GroupRows(segments, slots, at::kCPU));

  EXPECT_LT((read.narrow(0, 33, 7) - expected.narrow(0, 33, 7)).abs().max().item<double>(), 1e-4);
}

}  // namespace
}  // namespace modeld
