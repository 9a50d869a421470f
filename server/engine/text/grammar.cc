#include "server/engine/text/grammar.h"

#include <utility>
#include <vector>

#include "server/engine/text/crate_text.h"

namespace modeld {
namespace {

modeld_text_grammar_form ToForm(GrammarSource::Form form) {
  switch (form) {
    case GrammarSource::Form::kJsonSchema:
      return MODELD_TEXT_JSON_SCHEMA;
    case GrammarSource::Form::kJsonObject:
      return MODELD_TEXT_JSON_OBJECT;
    case GrammarSource::Form::kRegex:
      return MODELD_TEXT_REGEX;
    case GrammarSource::Form::kChoice:
      return MODELD_TEXT_CHOICE;
    case GrammarSource::Form::kLark:
      break;
  }
  return MODELD_TEXT_LARK;
}

}  // namespace

void GrammarState::Free::operator()(modeld_text_position* position) const {
  modeld_text_position_free(position);
}

GrammarState::GrammarState(Position position, std::string field)
    : position_(std::move(position)), field_(std::move(field)) {}

absl::StatusOr<bool> GrammarState::Mask(std::span<uint32_t> words) {
  bool can_stop = false;
  modeld_text_bytes error{};
  const modeld_text_kind kind =
      modeld_text_position_mask(position_.get(), words.data(), words.size(), &can_stop, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, field_);
  return can_stop;
}

absl::StatusOr<bool> GrammarState::Accept(int64_t token_id) {
  bool finished = false;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_position_accept(
      position_.get(), static_cast<uint32_t>(token_id), &finished, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, field_);
  return finished;
}

void Grammar::Free::operator()(modeld_text_grammar* grammar) const {
  modeld_text_grammar_free(grammar);
}

Grammar::Grammar(Compiled compiled, std::string field, int64_t mask_words)
    : compiled_(std::move(compiled)), field_(std::move(field)), mask_words_(mask_words) {}

absl::StatusOr<std::unique_ptr<GrammarState>> Grammar::Start() const {
  modeld_text_position* position = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_position_new(compiled_.get(), &position, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, field_);
  return std::unique_ptr<GrammarState>(new GrammarState(GrammarState::Position(position), field_));
}

void GrammarCompiler::Free::operator()(modeld_text_compiler* compiler) const {
  modeld_text_compiler_free(compiler);
}

GrammarCompiler::GrammarCompiler(Compiler compiler, int64_t vocab_size)
    : compiler_(std::move(compiler)), vocab_size_(vocab_size) {}

absl::StatusOr<std::unique_ptr<GrammarCompiler>> GrammarCompiler::Create(
    const Tokenizer& tokenizer, std::span<const int64_t> end_token_ids) {
  const std::vector<uint32_t> ends(end_token_ids.begin(), end_token_ids.end());
  modeld_text_compiler* compiler = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_compiler_new(tokenizer.crate_tokenizer(), ends.data(),
                                                         ends.size(), &compiler, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, "the vocabulary");
  return std::unique_ptr<GrammarCompiler>(
      new GrammarCompiler(Compiler(compiler), tokenizer.vocab_size()));
}

absl::StatusOr<std::shared_ptr<const Grammar>> GrammarCompiler::Compile(
    const GrammarSource& source) const {
  modeld_text_grammar* grammar = nullptr;
  modeld_text_bytes error{};
  const modeld_text_kind kind = modeld_text_grammar_new(compiler_.get(), ToForm(source.form),
                                                        ToView(source.text), &grammar, &error);
  if (kind != MODELD_TEXT_OK) return TakeFailure(kind, error, source.field);
  return std::shared_ptr<const Grammar>(
      new Grammar(Grammar::Compiled(grammar), source.field, (vocab_size_ + 31) / 32));
}

}  // namespace modeld
