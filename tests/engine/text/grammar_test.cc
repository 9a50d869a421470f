#include "server/engine/text/grammar.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "tests/engine/text/text_goldens.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using ::testing::HasSubstr;

using Form = GrammarSource::Form;

// Over one of the small tokenizers of the goldens.
class GrammarTest : public ::testing::Test {
 protected:
  explicit GrammarTest(const std::string& name = "byte_level_bpe")
      : tokenizer_(*Tokenizer::Load(TextDataPath(name))),
        compiler_(*GrammarCompiler::Create(*tokenizer_, {})) {}

  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(Form form, const std::string& text) const {
    return compiler_->Compile({.form = form, .text = text, .field = "structure.it"});
  }

  std::vector<uint32_t> EmptyMask() const {
    return std::vector<uint32_t>((tokenizer_->vocab_size() + 31) / 32);
  }

  static bool IsIn(const std::vector<uint32_t>& mask, int64_t id) {
    return ((mask[id / 32] >> (id % 32)) & 1) != 0;
  }

  // What an answer of this text, written with the longest tokens that fit, comes to.
  struct Reading {
    std::string rest;  // from where on no token was in the mask
    bool can_stop = false;
    bool finished = false;
  };
  Reading Read(const Grammar& grammar, std::string text) const {
    const std::unique_ptr<GrammarState> state = *grammar.Start();
    std::vector<uint32_t> mask = EmptyMask();
    Reading reading;
    while (true) {
      const auto can_stop = state->Mask(mask);
      EXPECT_THAT(can_stop, IsOk());
      reading.can_stop = can_stop.value_or(false);
      int64_t longest = -1;
      size_t longest_bytes = 0;
      for (int64_t id = 0; id < tokenizer_->vocab_size(); ++id) {
        if (!IsIn(mask, id)) continue;
        const std::string piece = *tokenizer_->Decode({{id}}, /*skip_special_tokens=*/false);
        if (text.starts_with(piece) && piece.size() > longest_bytes) {
          longest = id;
          longest_bytes = piece.size();
        }
      }
      reading.rest = text;
      if (longest < 0) return reading;
      text.erase(0, longest_bytes);
      reading.finished = *state->Accept(longest);
    }
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  const std::unique_ptr<GrammarCompiler> compiler_;
};

TEST_F(GrammarTest, ASchemaTakesWhatSatisfiesItAndNothingElse) {
  const auto grammar = Compile(Form::kJsonSchema, R"({
    "type": "object", "additionalProperties": false, "required": ["age", "unit"],
    "properties": {"age": {"type": "integer", "minimum": 18, "maximum": 120},
                   "unit": {"enum": ["c", "f"]}}})");
  ASSERT_THAT(grammar, IsOk());

  const Reading whole = Read(**grammar, R"({"age": 42, "unit": "c"})");
  EXPECT_EQ(whole.rest, "");
  EXPECT_TRUE(whole.can_stop);
  EXPECT_TRUE(whole.finished);
  const Reading cut = Read(**grammar, R"({"age": 42)");
  EXPECT_EQ(cut.rest, "");
  EXPECT_FALSE(cut.can_stop);
  EXPECT_EQ(Read(**grammar, R"({"age": 7, "unit": "c"})").rest, R"(, "unit": "c"})");
  EXPECT_EQ(Read(**grammar, R"({"age": 42, "unit": "k"})").rest, R"(k"})");
  EXPECT_EQ(Read(**grammar, R"([])").rest, "[]");
}

TEST_F(GrammarTest, SpaceInJsonHasAnEnd) {
  const auto grammar = Compile(Form::kJsonObject, "");
  ASSERT_THAT(grammar, IsOk());

  const Reading indented = Read(**grammar, "{\n    \"a\": [\n        1]}");
  EXPECT_EQ(indented.rest, "");
  EXPECT_TRUE(indented.finished);
  EXPECT_THAT(Read(**grammar, "{" + std::string(200, ' ') + "}").rest, HasSubstr(" }"));
}

TEST_F(GrammarTest, ARegexMatchesTheWholeAnswer) {
  const auto grammar = Compile(Form::kRegex, "[a-z]+(-[0-9]{2})?");
  ASSERT_THAT(grammar, IsOk());

  EXPECT_TRUE(Read(**grammar, "week").can_stop);
  EXPECT_FALSE(Read(**grammar, "week").finished);
  EXPECT_TRUE(Read(**grammar, "week-07").finished);
  EXPECT_FALSE(Read(**grammar, "week-0").can_stop);
  EXPECT_EQ(Read(**grammar, "Week").rest, "Week");
}

TEST_F(GrammarTest, AChoiceIsTakenLiterally) {
  const auto grammar = Compile(Form::kChoice, R"(["a.b", "(x|y)*", "two\nlines"])");
  ASSERT_THAT(grammar, IsOk());

  EXPECT_TRUE(Read(**grammar, "a.b").finished);
  EXPECT_TRUE(Read(**grammar, "(x|y)*").finished);
  EXPECT_TRUE(Read(**grammar, "two\nlines").finished);
  EXPECT_EQ(Read(**grammar, "axb").rest, "xb");
}

TEST_F(GrammarTest, ALarkGrammarNests) {
  const auto grammar = Compile(Form::kLark, "start: pair\npair: \"(\" pair? \")\"\n");
  ASSERT_THAT(grammar, IsOk());

  EXPECT_TRUE(Read(**grammar, "((()))").finished);
  EXPECT_FALSE(Read(**grammar, "((())").can_stop);
}

TEST_F(GrammarTest, AnEndOfTheAnswerIsNeverText) {
  const int64_t end = *tokenizer_->TokenId("a");
  const auto compiler = GrammarCompiler::Create(*tokenizer_, {{end}});
  ASSERT_THAT(compiler, IsOk());
  const auto grammar = (*compiler)->Compile({.form = Form::kRegex, .text = "[ab]+", .field = "f"});
  ASSERT_THAT(grammar, IsOk());
  std::vector<uint32_t> mask = EmptyMask();

  ASSERT_THAT((*(*grammar)->Start())->Mask(mask), IsOk());

  EXPECT_FALSE(IsIn(mask, end));
  EXPECT_TRUE(IsIn(mask, *tokenizer_->TokenId("b")));
}

TEST_F(GrammarTest, AStateIsIndependentOfTheOthers) {
  const auto grammar = Compile(Form::kRegex, "ab");
  ASSERT_THAT(grammar, IsOk());
  const auto first = *(*grammar)->Start();
  const auto second = *(*grammar)->Start();
  std::vector<uint32_t> mask = EmptyMask();
  ASSERT_THAT(first->Mask(mask), IsOk());
  ASSERT_THAT(first->Accept(*tokenizer_->TokenId("a")), IsOk());

  ASSERT_THAT(second->Mask(mask), IsOk());

  EXPECT_TRUE(IsIn(mask, *tokenizer_->TokenId("a")));
  EXPECT_FALSE(IsIn(mask, *tokenizer_->TokenId("b")));
}

struct Refusal {
  std::string name;
  Form form;
  std::string text;
  std::string says;
};

class GrammarRefusalTest : public GrammarTest, public ::testing::WithParamInterface<Refusal> {};

INSTANTIATE_TEST_SUITE_P(
    All, GrammarRefusalTest,
    ::testing::Values(
        Refusal{"NoJson", Form::kJsonSchema, "{\"type\": ", "line 1 column 9"},
        Refusal{"NoSchema", Form::kJsonSchema, "[1]", "at \"\""},
        Refusal{"False", Form::kJsonSchema, "false", "at \"\""},
        Refusal{"UnknownType", Form::kJsonSchema,
                R"({"properties": {"a/b": {"items": {"type": "text"}}}})",
                "at \"/properties/a~1b/items\": Invalid type: text"},
        Refusal{"UnsupportedKeyword", Form::kJsonSchema,
                R"({"anyOf": [{"type": "string"}, {"type": "array", "uniqueItems": true}]})",
                "at \"/anyOf/1\": Unimplemented keys: [\"uniqueItems\"]"},
        Refusal{"InADefinition", Form::kJsonSchema,
                R"({"$ref": "#/$defs/x y", "$defs": {"x y": {"not": {"type": "null"}}}})",
                "at \"/$defs/x y\": Unimplemented keys: [\"not\"]"},
        Refusal{
            "Recursive", Form::kJsonSchema,
            R"({"type": "object", "properties": {"next": {"$ref": "#"}, "x": {"format": "?"}}})",
            "at \"/properties/x\": Unknown format: ?"},
        Refusal{"MissingDefinition", Form::kJsonSchema,
                R"({"type": "object", "properties": {"a": {"$ref": "#/$defs/none"}}})",
                "at \"/properties/a\""},
        Refusal{"RemoteReference", Form::kJsonSchema, R"({"$ref": "https://example.com/s.json"})",
                "at \"\""},
        Refusal{"Unsatisfiable", Form::kJsonSchema,
                R"({"type": "array", "items": {"type": "integer", "minimum": 5, "maximum": 4},
                    "minItems": 1})",
                "at \"/items\": Unsatisfiable schema"},
        Refusal{"NarrowExclusiveBounds", Form::kJsonSchema,
                R"({"items": {"type": "number", "exclusiveMinimum": 99, "maximum": 99.75}})",
                "at \"/items\": an exclusive bound"},
        Refusal{"NarrowBoundsBelow0", Form::kJsonSchema,
                R"({"allOf": [{"type": "number", "minimum": -0.5}, {"exclusiveMaximum": 0}]})",
                "at \"/allOf/1\": an exclusive bound"},
        Refusal{"EndlessReference", Form::kJsonSchema, R"({"$ref": "#"})",
                "at \"\": no answer satisfies it"},
        Refusal{"EndlessCompilation", Form::kJsonSchema,
                R"({"type": "array", "items": {"type": "integer", "multipleOf": 999983}})",
                "more than 4 s of processor time"},
        Refusal{"LongMessage", Form::kRegex, "a(" + std::string(10'000, 'b'), " ..."},
        Refusal{"OwnOptions", Form::kJsonSchema,
                R"({"not": {"type": "null"}, "x-guidance": {"lenient": true}})", "at \"\""},
        Refusal{"BrokenRegex", Form::kRegex, "a(b", "unclosed group"},
        Refusal{"BrokenLark", Form::kLark, "start: missing", "missing"}),
    [](const auto& info) { return info.param.name; });

TEST_P(GrammarRefusalTest, NamesTheFieldAndThePlace) {
  const auto grammar = Compile(GetParam().form, GetParam().text);

  EXPECT_THAT(grammar, NamesField("structure.it"));
  EXPECT_THAT(std::string(grammar.status().message()), HasSubstr(GetParam().says));
}

TEST_F(GrammarTest, TheSchemasThatProgramsAskForAreTaken) {
  std::istringstream schemas(ReadTextData("../schemas/taken.jsonl"));
  std::string schema;
  int count = 0;

  while (std::getline(schemas, schema)) {
    ++count;
    EXPECT_THAT(Compile(Form::kJsonSchema, schema), IsOk()) << schema;
  }

  EXPECT_EQ(count, 200);
}

// A process with one such grammar after another must not fall over.
TEST_F(GrammarTest, DeepNestingIsRefusedOrTaken) {
  const std::string deep(30'000, '(');
  for (const std::string& lark : {"start: " + deep, "start: /" + deep + "/",
                                  "start: " + deep + "\"a\"" + std::string(30'000, ')')}) {
    const auto grammar = Compile(Form::kLark, lark);
    if (!grammar.ok()) {
      EXPECT_THAT(grammar, NamesField("structure.it"));
    }
  }
  EXPECT_THAT(Compile(Form::kRegex, deep), NamesField("structure.it"));
}

class SentencePieceGrammarTest : public GrammarTest {
 protected:
  SentencePieceGrammarTest() : GrammarTest("sentencepiece_bpe") {}
};

TEST_F(SentencePieceGrammarTest, SpacesAndBytesAreWhatTheyStandFor) {
  const auto grammar = Compile(Form::kRegex, "a \U0001F600");
  ASSERT_THAT(grammar, IsOk());
  const std::unique_ptr<GrammarState> state = *(*grammar)->Start();
  std::vector<uint32_t> mask = EmptyMask();
  bool finished = false;

  for (const char* token : {"a", "\u2581", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"}) {
    ASSERT_THAT(state->Mask(mask), IsOk());
    ASSERT_TRUE(IsIn(mask, *tokenizer_->TokenId(token))) << token;
    finished = *state->Accept(*tokenizer_->TokenId(token));
  }

  EXPECT_TRUE(finished);
}

TEST(WordPieceGrammarTest, IsNotSupported) {
  const auto tokenizer = Tokenizer::Load(TextDataPath("wordpiece"));
  ASSERT_THAT(tokenizer, IsOk());

  const auto compiler = GrammarCompiler::Create(**tokenizer, {});

  EXPECT_TRUE(HasReason(compiler.status(), Reason::kMethodNotSupported)) << compiler.status();
}

}  // namespace
}  // namespace modeld
