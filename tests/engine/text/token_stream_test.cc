#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <span>

#include "server/engine/text/tokenizer.h"
#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

// nlohmann refuses to write text that is not UTF-8.
bool IsUtf8(const std::string& text) {
  try {
    return !nlohmann::json(text).dump().empty();
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

std::string Stream(const Tokenizer& tokenizer, std::span<const int64_t> prompt_tail,
                   std::span<const int64_t> ids, bool skip_special_tokens = false) {
  TokenStream stream(tokenizer, prompt_tail, skip_special_tokens);
  std::string total;
  for (const int64_t id : ids) {
    const std::string piece = stream.Put(id);
    EXPECT_TRUE(IsUtf8(piece));
    total += piece;
  }
  const std::string rest = stream.Finish();
  EXPECT_TRUE(IsUtf8(rest));
  return total + rest;
}

std::unique_ptr<Tokenizer> Load(const std::string& name) {
  auto tokenizer = Tokenizer::Load(TextDataPath(name));
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

class TokenStreamGoldenTest : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(All, TokenStreamGoldenTest, ::testing::ValuesIn(TextTokenizers()),
                         [](const auto& info) { return info.param; });

TEST_P(TokenStreamGoldenTest, PiecesAddUpToTheTextDecodedAtOnce) {
  const auto tokenizer = Load(GetParam());
  for (const TextGolden& golden : ReadTextGoldens(GetParam())) {
    EXPECT_EQ(Stream(*tokenizer, {}, golden.ids_with_special), golden.text_of_ids);
    EXPECT_EQ(Stream(*tokenizer, {}, golden.ids_with_special, /*skip_special_tokens=*/true),
              golden.text_without_special);
  }
}

// Wherever a prompt ends inside a text, prompt and answer together give the text; ends in the
// middle of a character are left out, because there the prompt itself has no text.
TEST_P(TokenStreamGoldenTest, AnswerContinuesThePromptAtEveryToken) {
  const auto tokenizer = Load(GetParam());
  for (const TextGolden& golden : ReadTextGoldens(GetParam())) {
    const std::span<const int64_t> ids(golden.ids);
    const auto whole = tokenizer->Decode(ids, false);
    ASSERT_THAT(whole, IsOk());
    for (size_t cut = 1; cut < ids.size(); ++cut) {
      const auto prompt = tokenizer->Decode(ids.first(cut), false);
      ASSERT_THAT(prompt, IsOk());
      if (prompt->ends_with("\uFFFD") || !whole->starts_with(*prompt)) continue;

      EXPECT_EQ(*prompt + Stream(*tokenizer, ids.first(cut), ids.subspan(cut)), *whole) << cut;
    }
  }
}

TEST(TokenStreamTest, FirstTokenKeepsItsSpaceAfterAPrompt) {
  const auto tokenizer = Load("metaspace_bpe");
  const auto prompt = tokenizer->Encode("the", false);
  ASSERT_THAT(prompt, IsOk());
  const std::vector<int64_t> answer = {tokenizer->TokenId("▁").value(),
                                       tokenizer->TokenId("d").value()};

  EXPECT_EQ(Stream(*tokenizer, *prompt, answer), " d");
  EXPECT_EQ(Stream(*tokenizer, {}, answer), "d");
}

// A byte-fallback decoder knows nothing of U+FFFD at the end until all of its bytes are there.
TEST(TokenStreamTest, RealReplacementCharacterOfByteTokensComesAtOnce) {
  const auto tokenizer = Load("sentencepiece_bpe");
  TokenStream stream(*tokenizer, {}, false);

  EXPECT_EQ(stream.Put(tokenizer->TokenId("<0xEF>").value()), "");
  EXPECT_EQ(stream.Put(tokenizer->TokenId("<0xBF>").value()), "");
  EXPECT_EQ(stream.Put(tokenizer->TokenId("<0xBD>").value()), "\uFFFD");
  EXPECT_EQ(stream.Put(tokenizer->TokenId("<0xE6>").value()), "");
  EXPECT_NE(stream.Finish(), "");
}

TEST(TokenStreamTest, CharacterOfManyTokensComesWhole) {
  const auto tokenizer = Load("byte_level_bpe");
  const auto ids = tokenizer->Encode("\U0001F9D1", false);
  ASSERT_THAT(ids, IsOk());
  ASSERT_GT(ids->size(), 1u);
  TokenStream stream(*tokenizer, {}, false);

  for (size_t i = 0; i + 1 < ids->size(); ++i) EXPECT_EQ(stream.Put((*ids)[i]), "");

  EXPECT_EQ(stream.Put(ids->back()), "\U0001F9D1");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TokenStreamTest, CutCharacterEndsAsReplacement) {
  const auto tokenizer = Load("byte_level_bpe");
  const auto ids = tokenizer->Encode("a\U0001F9D1", false);
  ASSERT_THAT(ids, IsOk());
  TokenStream stream(*tokenizer, {}, false);
  std::string total;

  for (size_t i = 0; i + 1 < ids->size(); ++i) total += stream.Put((*ids)[i]);

  EXPECT_EQ(total, "a");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
}

// Otherwise a model that writes nothing but U+FFFD would stream nothing, at quadratic cost.
TEST(TokenStreamTest, RealReplacementCharactersAreNotHeldBackForEver) {
  const auto tokenizer = Load("byte_level_bpe");
  std::string text;
  for (int i = 0; i < 50; ++i) text += "\uFFFD";
  const auto ids = tokenizer->Encode(text, false);
  ASSERT_THAT(ids, IsOk());
  TokenStream stream(*tokenizer, {}, false);
  std::string total;

  for (const int64_t id : *ids) total += stream.Put(id);

  EXPECT_GE(total.size(), text.size() - 4 * 3);
  EXPECT_EQ(total + stream.Finish(), text);
}

TEST(TokenStreamTest, IdsBeyondTheVocabularyHaveNoText) {
  const auto tokenizer = Load("byte_level_bpe");
  TokenStream stream(*tokenizer, {}, false);

  EXPECT_EQ(stream.Put(tokenizer->vocab_size() + 5), "");
  EXPECT_EQ(stream.Put(*tokenizer->TokenId("a")), "a");
  EXPECT_EQ(stream.Finish(), "");
}

}  // namespace
}  // namespace modeld
