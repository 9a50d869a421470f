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
  EXPECT_FALSE(generation.full(0));

  generation.Append(Token(2, "b"));
  EXPECT_TRUE(generation.full(0));

  generation.Take();
  EXPECT_FALSE(generation.full(0));
}

GenerationRequest Choices(int n, int best_of) {
  GenerationRequest request;
  request.sampling.n = n;
  request.sampling.best_of = best_of;
  return request;
}

OutputPiece End(int choice, int64_t tokens, std::optional<double> score = std::nullopt) {
  GenerationEnd end{.score = score};
  end.usage = {.prompt_tokens = 7, .generated_tokens = tokens, .total_seconds = 0.5 * choice};
  return {.choice = choice, .end = end};
}

TEST(GenerationTest, ChoicesAreReadByTurnsAndTheLastPieceHasTheCountsOfAll) {
  Generation generation(Choices(2, 2), [] {});
  generation.Append({.choice = 1, .text = "b", .token_ids = {2}});
  generation.Append({.choice = 0, .text = "a", .token_ids = {1}});

  EXPECT_EQ(generation.Take()->choice, 0);
  generation.Append({.choice = 0, .text = "a", .token_ids = {1}});
  EXPECT_EQ(generation.Take()->choice, 1);
  EXPECT_EQ(generation.Take()->choice, 0);
  generation.Append(End(1, 1));
  EXPECT_FALSE(generation.Take()->last);
  EXPECT_EQ(generation.unended(), 1);
  generation.Append(End(0, 2));

  const std::optional<OutputPiece> last = generation.Take();
  ASSERT_TRUE(last);
  EXPECT_TRUE(last->last);
  EXPECT_EQ(last->end->usage.prompt_tokens, 7);
  EXPECT_EQ(last->end->usage.generated_tokens, 3);
  EXPECT_EQ(last->end->usage.total_seconds, 0.5);
}

TEST(GenerationTest, TheBestChoicesComeOutWhenAllHaveEnded) {
  int calls = 0;
  Generation generation(Choices(2, 3), [&] { ++calls; });
  for (int choice = 0; choice < 3; ++choice) {
    generation.Append({.choice = choice, .token_ids = {choice}});
  }
  EXPECT_FALSE(generation.Take());
  generation.Append(End(0, 1, -3.0));
  generation.Append(End(1, 1, -1.0));
  EXPECT_EQ(calls, 0);
  generation.Append(End(2, 1, -2.0));
  EXPECT_EQ(calls, 1);

  const std::optional<OutputPiece> best = generation.Take();
  const std::optional<OutputPiece> second = generation.Take();

  ASSERT_TRUE(best && second);
  EXPECT_EQ(best->choice, 0);
  EXPECT_THAT(best->token_ids, ElementsAre(1));
  EXPECT_EQ(second->choice, 1);
  EXPECT_THAT(second->token_ids, ElementsAre(2));
  EXPECT_TRUE(second->last);
  EXPECT_EQ(second->end->usage.generated_tokens, 3);
}

TEST(GenerationTest, AnErrorOfOneChoiceStopsTheOthersAndIsNeverRankedAway) {
  Generation generation(Choices(1, 3), [] {});
  OutputPiece failed = End(2, 1, -9.0);
  failed.end->status = absl::InternalError("broken");
  generation.Append(std::move(failed));

  const std::optional<Generation::Stopped> stopped = generation.stopped();
  ASSERT_TRUE(stopped);
  EXPECT_EQ(stopped->status.message(), "broken");
  generation.Append(End(0, 1, -1.0));
  generation.Append(End(1, 1, -1.0));

  EXPECT_EQ(generation.Take()->end->status.message(), "broken");
}

TEST(GenerationTest, ManyLogprobsComeInSeveralPieces) {
  Generation generation(Choices(1, 2), [] {});
  for (int64_t i = 0; i < 2'500; ++i) {
    generation.Append({.text = "x", .token_ids = {i}, .logprobs = {{.chosen = {i, -1}}}});
  }
  generation.Append(End(0, 2'500, -1.0));
  generation.Append(End(1, 0, -2.0));

  std::vector<int64_t> ids;
  std::optional<OutputPiece> piece;
  do {
    piece = generation.Take();
    ASSERT_TRUE(piece);
    EXPECT_LE(piece->logprobs.size(), 1'024U);
    ASSERT_EQ(piece->logprobs.size(), piece->token_ids.size());
    ids.insert(ids.end(), piece->token_ids.begin(), piece->token_ids.end());
  } while (!piece->last);

  EXPECT_EQ(piece->text.size(), 2'500U);
  ASSERT_EQ(ids.size(), 2'500U);
  for (int64_t i = 0; i < 2'500; ++i) EXPECT_EQ(ids[i], i);
}

TEST(GenerationTest, TheEchoBeginsEachChoice) {
  GenerationRequest request = Choices(2, 2);
  request.echo_text = "prompt ";
  Generation generation(request, [] {});
  generation.Append({.choice = 0, .text = "a"});
  generation.Append({.choice = 1, .text = "b"});

  EXPECT_EQ(generation.Take()->text, "prompt a");
  EXPECT_EQ(generation.Take()->text, "prompt b");
}

TEST(HistogramTest, AValueOnABoundBelongsToThatBucket) {
  Histogram histogram({1, 2});

  for (const double value : {0.5, 1.0, 1.5, 2.0, 2.5}) histogram.Observe(value);

  EXPECT_THAT(histogram.counts, ElementsAre(2, 2, 1));
  EXPECT_DOUBLE_EQ(histogram.sum, 7.5);
}

}  // namespace
}  // namespace modeld
