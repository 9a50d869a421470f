#include "server/engine/required_calls.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"
#include "server/engine/chat/call_grammar.h"
#include "server/engine/chat/harmony_answer.h"

namespace modeld {
namespace {

using nlohmann::ordered_json;

// Each schema is compiled by itself first, which names the place of what is not supported.
absl::StatusOr<std::vector<CallableTool>> CallableTools(const modeld::v1::ChatRequest& request,
                                                        const ToolChoice& choice,
                                                        const CallGrammarTools& tools) {
  std::vector<CallableTool> out;
  for (int i = 0; i < request.tools_size(); ++i) {
    const modeld::v1::Tool& tool = request.tools(i);
    if (!choice.name.empty() && tool.name() != choice.name) continue;
    CallableTool callable = {.name = tool.name(),
                             .parameters = ordered_json::object(),
                             .field = absl::StrCat("tools[", i, "].parameters_json")};
    if (!tool.parameters_json().empty()) {
      RETURN_IF_ERROR(tools.structures
                          .Compile({.form = GrammarSource::Form::kJsonSchema,
                                    .text = tool.parameters_json(),
                                    .field = callable.field},
                                   tools.tokenizer, tools.end_token_ids)
                          .status());
      callable.parameters = ordered_json::parse(tool.parameters_json(), nullptr,
                                                /*allow_exceptions=*/false);
    }
    if (!callable.parameters.is_object()) {
      return InvalidField(callable.field, "is no JSON object");
    }
    out.push_back(std::move(callable));
  }
  return out;
}

std::optional<CallGrammarOptions::Reasoning> ReasoningOf(const ChatAnswer& answer) {
  const AnswerFormat& format = answer.tokens.format;
  if (format.is_harmony()) {
    return CallGrammarOptions::Reasoning{.open = std::string(kHarmonyReasoning),
                                         .close = std::string(kHarmonyReasoningEnd)};
  }
  if (format.reasoning() == nullptr) return std::nullopt;
  return CallGrammarOptions::Reasoning{
      .open = answer.in_reasoning ? "" : std::string(format.reasoning()->open),
      .close = std::string(format.reasoning()->close)};
}

}  // namespace

absl::StatusOr<AnswerStructure> RequiredCalls(const modeld::v1::ChatRequest& request,
                                              const ToolChoice& choice, const ChatAnswer& answer,
                                              const CallGrammarTools& tools) {
  const CallForm* form = answer.tokens.format.call_form();
  if (form == nullptr) {
    return MethodNotSupported(
        "a tool_choice that makes this model call tools, whose way of writing calls is not known");
  }
  CallGrammarOptions options = {
      .one_call = !choice.name.empty() ||
                  (request.has_parallel_tool_calls() && !request.parallel_tool_calls()),
      .reasoning = ReasoningOf(answer)};
  for (const std::string& spelling : tools.special_tokens.spellings()) {
    const std::optional<int64_t> id = tools.tokenizer.TokenId(spelling);
    if (id) options.special_tokens.emplace_back(spelling, *id);
  }
  ASSIGN_OR_RETURN(const std::vector<CallableTool> callable, CallableTools(request, choice, tools));
  GrammarSource source = {.form = GrammarSource::Form::kLark, .field = "tools"};
  ASSIGN_OR_RETURN(source.text, CallGrammar(*form, callable, options));
  return tools.structures.Compile(source, tools.tokenizer, tools.end_token_ids);
}

}  // namespace modeld
