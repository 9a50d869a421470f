// Everything that is read of a repository to make text of tokens and of messages.
#include "tests/support/fuzz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "server/engine/text/chat_template.h"
#include "server/engine/text/tokenizer.h"
#include "tests/engine/text/text_goldens.h"

namespace modeld {
namespace {

// A tokenizer that could be made must do its work, or say why not.
absl::Status Use(const Tokenizer& tokenizer) {
  for (int64_t id = 0; id < std::min<int64_t>(tokenizer.vocab_size(), 100); ++id) {
    const std::string spelling = tokenizer.TokenSpelling(id);
    EXPECT_TRUE(spelling.empty() || tokenizer.TokenId(spelling).has_value()) << spelling;
  }
  for (const std::string_view text :
       {"", " ", "The quick <s> brown\n\n fox's 3.14", "日本語 🙂 \u0301\ufffd <|im_start|>"}) {
    for (const bool flag : {false, true}) {
      const auto ids = tokenizer.Encode(text, /*add_special_tokens=*/flag,
                                        /*parse_special_tokens=*/!flag);
      if (!ids.ok()) return ids.status();
      const auto decoded = tokenizer.Decode(*ids, /*skip_special_tokens=*/flag);
      if (!decoded.ok()) return decoded.status();
      TokenStream stream(tokenizer, {}, flag);
      for (const int64_t id : *ids) stream.Put(id);
      stream.Finish();
    }
  }
  return absl::OkStatus();
}

absl::Status LoadAndUse(const TemporarySnapshot& snapshot) {
  const auto tokenizer = Tokenizer::Load(snapshot.path());
  return tokenizer.ok() ? Use(**tokenizer) : tokenizer.status();
}

const std::vector<std::string> kJsonPieces = {"{",
                                              "}",
                                              "[",
                                              "]",
                                              "\"",
                                              ",",
                                              ":",
                                              "null",
                                              "true",
                                              "\"\"",
                                              "\\u0000",
                                              "\xff",
                                              "\"type\":\"BPE\",",
                                              "\"type\":\"Sequence\",",
                                              "{\"type\":\"ByteLevel\"},",
                                              "\"content\":\"\",",
                                              "\"special\":true,",
                                              "\"id\":4294967295,",
                                              "\"unk_id\":99,",
                                              "(a+)+$",
                                              "\"prepend_scheme\":\"always\","};

TEST(TextFuzzTest, TokenizerJson) {
  FuzzCorpus corpus = {.inputs = {}, .pieces = kJsonPieces};
  for (const std::string& name : TextTokenizers()) {
    corpus.inputs.push_back(ReadTextData(name + "/tokenizer.json"));
  }
  const TemporarySnapshot snapshot;
  Fuzz(corpus, [&](const std::string& json) {
    snapshot.Write("tokenizer.json", json);
    return LoadAndUse(snapshot);
  });
}

TEST(TextFuzzTest, TokenizerConfig) {
  FuzzCorpus corpus = {
      .inputs = {ReadTextData("byte_level_bpe/tokenizer_config.json"),
                 R"({"tokenizer_class": "LlamaTokenizer", "add_bos_token": true, "legacy": true,
                     "bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>"})",
                 R"({"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder":
                     {"7": {"content": "<x>", "special": true}, "600": {"content": "<y>"}}})",
                 R"({"tokenizer_class": "T5Tokenizer", "extra_ids": 10,
                     "extra_special_tokens": ["a", {"content": "b"}]})"},
      .pieces = kJsonPieces};
  const TemporarySnapshot snapshot;
  snapshot.Copy("../tokenizers/files/bpe.model", "tokenizer.model");
  Fuzz(corpus, [&](const std::string& json) {
    snapshot.Write("tokenizer_config.json", json);
    return LoadAndUse(snapshot);
  });
}

TEST(TextFuzzTest, SentencePieceModel) {
  FuzzCorpus corpus = {.inputs = {ReadTextData("../tokenizers/files/bpe.model"),
                                  ReadTextData("../tokenizers/files/gemma.model")},
                       .pieces = {"\x0a\x0a\x0a\x03", "\x12\x02\x18\x02", "\x1a\x08\x12\x04",
                                  std::string(9, '\xff'), std::string(300, 'a'), "\u2581"}};
  const TemporarySnapshot snapshot;
  Fuzz(corpus, [&](const std::string& model) {
    snapshot.Write("tokenizer.model", model);
    return LoadAndUse(snapshot);
  });
}

// The table of the normalizer, which is a trie that the text walks through.
TEST(TextFuzzTest, SentencePieceNormalizer) {
  FuzzCorpus corpus = {.inputs = {ReadTextData("../tokenizers/files/unigram.model")},
                       .pieces = {std::string(4, '\0'), std::string(8, '\xff')}};
  const TemporarySnapshot snapshot;
  Fuzz(corpus, [&](const std::string& model) {
    snapshot.Write("spiece.model", model);
    return LoadAndUse(snapshot);
  });
}

TEST(TextFuzzTest, VocabularyAndMerges) {
  // One input has both files, with a line between them.
  constexpr std::string_view kBetween = "\n----\n";
  FuzzCorpus corpus = {
      .inputs = {ReadTextData("../tokenizers/files/vocab.json") + std::string(kBetween) +
                 ReadTextData("../tokenizers/files/merges.txt")},
      .pieces = kJsonPieces};
  corpus.pieces.insert(corpus.pieces.end(), {"a b\n", "\n\n", " ", "#version", "ab cd\n"});
  const TemporarySnapshot snapshot;
  snapshot.Write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  Fuzz(corpus, [&](const std::string& input) {
    const size_t cut = std::min(input.find(kBetween), input.size());
    snapshot.Write("vocab.json", input.substr(0, cut));
    snapshot.Write("merges.txt", input.substr(std::min(cut + kBetween.size(), input.size())));
    return LoadAndUse(snapshot);
  });
}

TEST(TextFuzzTest, ChatTemplate) {
  FuzzCorpus corpus = {.inputs = {},
                       .pieces = {"{%",
                                  "%}",
                                  "{{",
                                  "}}",
                                  "{% endfor %}",
                                  "{% for m in messages %}",
                                  "{% endif %}",
                                  "{% if tools %}",
                                  "| tojson",
                                  "| join",
                                  "| length",
                                  ".split('a')",
                                  "[1:]",
                                  "[-1]",
                                  "loop.index0",
                                  "{% set ns = namespace(x='a') %}",
                                  "{% set ns.x = ns.x ~ ns.x %}",
                                  "messages",
                                  "raise_exception('no')",
                                  "strftime_now('%Y')",
                                  "{% macro m() %}",
                                  "{% endmacro %}",
                                  "{{ m() }}",
                                  "range(1000000)",
                                  " * 1000000",
                                  "(",
                                  ")",
                                  "'"}};
  for (const auto& entry : std::filesystem::directory_iterator(TextDataPath("templates"))) {
    corpus.inputs.push_back(ReadTextData("templates/" + entry.path().filename().string()));
  }
  std::sort(corpus.inputs.begin(), corpus.inputs.end());
  const TemporarySnapshot snapshot;
  Fuzz(corpus, [&](const std::string& source) {
    snapshot.Write("chat_template.jinja", source);
    const auto chat_template = ChatTemplate::Load(snapshot.path());
    if (!chat_template.ok()) return chat_template.status();
    return (*chat_template)
        ->Render({.messages_json = R"([{"role": "system", "content": "Be <terse>."},
                                       {"role": "user", "content": "hello\n"},
                                       {"role": "assistant", "content": "a", "thinking": "b"}])",
                  .tools_json = R"([{"type": "function", "function": {"name": "f"}}])",
                  .template_args_json = R"({"enable_thinking": true})"})
        .status();
  });
}

}  // namespace
}  // namespace modeld
