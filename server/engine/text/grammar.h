// Grammars that bound what a model may answer: JSON schemas, regular expressions and the like, by
// the crate `llguidance` over the model's own tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/engine/text/tokenizer.h"

struct modeld_text_compiler;
struct modeld_text_grammar;
struct modeld_text_position;

namespace modeld {

struct GrammarSource {
  // As in modeld_text.h, which says what `text` is for each.
  enum class Form { kJsonSchema, kJsonObject, kRegex, kChoice, kLark };
  Form form = Form::kJsonObject;
  std::string text;
  std::string field;  // of the request, for errors
};

// Where one answer stands in a grammar. One thread at a time.
class GrammarState {
 public:
  // Sets the bit of each token that may come next, 32 to a word, and clears the others; whether the
  // answer may end here. `words` reach over the tokenizer's vocabulary. Ends of an answer and
  // special tokens are not in the mask, unless a Lark grammar names them. INVALID_FIELD when the
  // grammar is too complex here, or needs what no token can spell.
  absl::StatusOr<bool> Mask(std::span<uint32_t> words);
  // Goes on with a token of the mask; whether the answer is whole and nothing can follow.
  absl::StatusOr<bool> Accept(int64_t token_id);

 private:
  struct Free {
    void operator()(modeld_text_position* position) const;
  };
  using Position = std::unique_ptr<modeld_text_position, Free>;
  friend class Grammar;
  GrammarState(Position position, std::string field);

  const Position position_;
  const std::string field_;
};

// Compiled; immutable and thread-safe.
class Grammar {
 public:
  // At the start of an answer.
  absl::StatusOr<std::unique_ptr<GrammarState>> Start() const;
  // As many as GrammarState::Mask() needs.
  int64_t mask_words() const { return mask_words_; }

 private:
  struct Free {
    void operator()(modeld_text_grammar* grammar) const;
  };
  using Compiled = std::unique_ptr<modeld_text_grammar, Free>;
  friend class GrammarCompiler;
  Grammar(Compiled compiled, std::string field, int64_t mask_words);

  const Compiled compiled_;
  const std::string field_;
  const int64_t mask_words_;
};

// Makes the grammars of one model. Immutable and thread-safe.
class GrammarCompiler {
 public:
  // Takes some 100 ms. `end_token_ids` end an answer and are never a part of its text.
  // METHOD_NOT_SUPPORTED for a tokenizer whose tokens do not stand for bytes.
  static absl::StatusOr<std::unique_ptr<GrammarCompiler>> Create(
      const Tokenizer& tokenizer, std::span<const int64_t> end_token_ids);

  // Takes some milliseconds, at most seconds. INVALID_FIELD for what is wrong, not supported or too
  // large, with the place in a JSON schema as a JSON pointer; nothing is left out silently.
  // QUEUE_FULL while others that were given up still hold processors and memory.
  absl::StatusOr<std::shared_ptr<const Grammar>> Compile(const GrammarSource& source) const;

 private:
  struct Free {
    void operator()(modeld_text_compiler* compiler) const;
  };
  using Compiler = std::unique_ptr<modeld_text_compiler, Free>;
  GrammarCompiler(Compiler compiler, int64_t vocab_size);

  const Compiler compiler_;
  const int64_t vocab_size_;
};

}  // namespace modeld
