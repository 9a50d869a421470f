#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/engine/batch/histogram.h"
#include "server/engine/batch/request.h"

namespace modeld {
namespace {

using ::testing::ElementsAre;

OutputPiece Token(int64_t id, std::string text) {
  return {.text = std::move(text), .token_ids = {id}};
}

TEST(GenerationTest, PiecesThatWereNotReadJoin) {
  Generation generation({}, [] {});
  generation.Append(Token(1, "a"));
  generation.Append(Token(2, "b"));

  const std::optional<OutputPiece> piece = generation.Take();

  ASSERT_TRUE(piece);
  EXPECT_EQ(piece->text, "ab");
  EXPECT_THAT(piece->token_ids, ElementsAre(1, 2));
  EXPECT_FALSE(generation.Take());
}

TEST(GenerationTest, TheReaderIsCalledOnceForEachTimeItFoundNothing) {
  int calls = 0;
  Generation generation({}, [&] { ++calls; });

  generation.Append(Token(1, "a"));
  generation.Append(Token(2, "b"));
  EXPECT_EQ(calls, 1);

  generation.Take();
  generation.Append(Token(3, "c"));
  EXPECT_EQ(calls, 1);  // it has not seen the bottom yet

  generation.Take();
  EXPECT_FALSE(generation.Take());
  generation.Append(Token(4, "d"));
  EXPECT_EQ(calls, 2);
}

TEST(GenerationTest, IsFullUntilItIsRead) {
  Generation generation({.unread_tokens_max = 2}, [] {});
  generation.Append(Token(1, "a"));
  EXPECT_FALSE(generation.full());

  generation.Append(Token(2, "b"));
  EXPECT_TRUE(generation.full());

  generation.Take();
  EXPECT_FALSE(generation.full());
}

TEST(HistogramTest, AValueOnABoundBelongsToThatBucket) {
  Histogram histogram({1, 2});

  for (const double value : {0.5, 1.0, 1.5, 2.0, 2.5}) histogram.Observe(value);

  EXPECT_THAT(histogram.counts, ElementsAre(2, 2, 1));
  EXPECT_DOUBLE_EQ(histogram.sum, 7.5);
}

}  // namespace
}  // namespace modeld
