#include "server/engine/structure.h"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"

namespace modeld {
namespace {

using Form = GrammarSource::Form;

constexpr size_t kSchemaBytesMax = 262'144;
constexpr size_t kRegexBytesMax = 16'384;
constexpr size_t kGrammarBytesMax = 65'536;
constexpr int kChoicesMax = 1'024;
constexpr size_t kChoiceBytesMax = 1'000;

absl::Status CheckBytes(const GrammarSource& source) {
  size_t bytes_max = kSchemaBytesMax;
  if (source.form == Form::kRegex) bytes_max = kRegexBytesMax;
  if (source.form == Form::kLark) bytes_max = kGrammarBytesMax;
  if (source.text.size() <= bytes_max) return absl::OkStatus();
  return InvalidField(source.field, absl::StrCat("has ", source.text.size(), " bytes, at most ",
                                                 bytes_max, " are allowed"));
}

absl::StatusOr<GrammarSource> ReadChoice(const modeld::v1::Structure& structure) {
  constexpr const char* kField = "structure.choice";
  if (structure.choice_size() > kChoicesMax) {
    return InvalidField(kField, absl::StrCat("has ", structure.choice_size(), " entries, at most ",
                                             kChoicesMax, " are allowed"));
  }
  for (const std::string& choice : structure.choice()) {
    if (choice.empty() || choice.size() > kChoiceBytesMax) {
      return InvalidField(
          kField, absl::StrCat("a text has ", choice.size(), " bytes, not 1 to ", kChoiceBytesMax));
    }
  }
  const std::vector<std::string> choices(structure.choice().begin(), structure.choice().end());
  return GrammarSource{
      .form = Form::kChoice, .text = nlohmann::json(choices).dump(), .field = kField};
}

}  // namespace

absl::StatusOr<std::optional<GrammarSource>> ReadStructure(const modeld::v1::Structure& structure) {
  std::vector<GrammarSource> asked;
  if (!structure.schema_json().empty()) {
    asked.push_back({Form::kJsonSchema, structure.schema_json(), "structure.schema_json"});
  }
  if (structure.json()) asked.push_back({Form::kJsonObject, "", "structure.json"});
  if (!structure.regex().empty()) {
    asked.push_back({Form::kRegex, structure.regex(), "structure.regex"});
  }
  if (structure.choice_size() > 0) {
    ASSIGN_OR_RETURN(GrammarSource choice, ReadChoice(structure));
    asked.push_back(std::move(choice));
  }
  if (!structure.grammar().empty()) {
    asked.push_back({Form::kLark, structure.grammar(), "structure.grammar"});
  }
  if (asked.empty()) return std::nullopt;
  if (asked.size() > 1) {
    return InvalidField("structure", absl::StrCat("at most one field may be set, not both ",
                                                  asked[0].field, " and ", asked[1].field));
  }
  if (asked[0].form != Form::kChoice) RETURN_IF_ERROR(CheckBytes(asked[0]));
  return std::move(asked[0]);
}

absl::StatusOr<AnswerStructure> Structures::Compile(const GrammarSource& source,
                                                    const Tokenizer& tokenizer,
                                                    std::span<const int64_t> end_token_ids) {
  const GrammarCompiler* compiler = nullptr;
  {
    MutexLock lock(mutex_);
    if (!compiler_) compiler_ = GrammarCompiler::Create(tokenizer, end_token_ids);
    RETURN_IF_ERROR(compiler_->status());
    compiler = compiler_->value().get();
  }
  AnswerStructure out;
  ASSIGN_OR_RETURN(out.grammar, compiler->Compile(source));
  out.mask_threads = &mask_threads_;
  return out;
}

}  // namespace modeld
