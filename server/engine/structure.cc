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

absl::Status CheckBytes(const GrammarSource& source, const RequestLimits& limits) {
  int64_t bytes_max = limits.schema_bytes_max;
  const char* key = "limits.schema_bytes_max";
  if (source.form == Form::kRegex) {
    bytes_max = limits.regex_bytes_max;
    key = "limits.regex_bytes_max";
  } else if (source.form == Form::kLark) {
    bytes_max = limits.grammar_bytes_max;
    key = "limits.grammar_bytes_max";
  }
  if (static_cast<int64_t>(source.text.size()) <= bytes_max) return absl::OkStatus();
  return InvalidField(source.field, absl::StrCat("has ", source.text.size(), " bytes, at most ",
                                                 bytes_max, " are allowed (", key, ")"));
}

absl::StatusOr<GrammarSource> ReadChoice(const modeld::v1::Structure& structure,
                                         const RequestLimits& limits) {
  constexpr const char* kField = "structure.choice";
  if (structure.choice_size() > limits.structure_choices_max) {
    return InvalidField(kField, absl::StrCat("has ", structure.choice_size(), " entries, at most ",
                                             limits.structure_choices_max,
                                             " are allowed (limits.structure_choices_max)"));
  }
  for (const std::string& choice : structure.choice()) {
    if (choice.empty() || static_cast<int64_t>(choice.size()) > limits.stop_bytes_max) {
      return InvalidField(kField, absl::StrCat("a text has ", choice.size(), " bytes, not 1 to ",
                                               limits.stop_bytes_max, " (limits.stop_bytes_max)"));
    }
  }
  const std::vector<std::string> choices(structure.choice().begin(), structure.choice().end());
  return GrammarSource{
      .form = Form::kChoice, .text = nlohmann::json(choices).dump(), .field = kField};
}

}  // namespace

absl::StatusOr<std::optional<GrammarSource>> ReadStructure(const modeld::v1::Structure& structure,
                                                           const RequestLimits& limits) {
  std::vector<GrammarSource> asked;
  if (!structure.schema_json().empty()) {
    asked.push_back({Form::kJsonSchema, structure.schema_json(), "structure.schema_json"});
  }
  if (structure.json()) asked.push_back({Form::kJsonObject, "", "structure.json"});
  if (!structure.regex().empty()) {
    asked.push_back({Form::kRegex, structure.regex(), "structure.regex"});
  }
  if (structure.choice_size() > 0) {
    ASSIGN_OR_RETURN(GrammarSource choice, ReadChoice(structure, limits));
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
  if (asked[0].form != Form::kChoice) RETURN_IF_ERROR(CheckBytes(asked[0], limits));
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
