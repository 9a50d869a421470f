#include "client/chat_answer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/base/status.h"

namespace modeld {
namespace {

using nlohmann::ordered_json;

constexpr char kDim[] = "\x1b[2m";
constexpr char kNormal[] = "\x1b[0m";

// A member that is a string; empty when it is not there.
absl::StatusOr<std::string> Text(const ordered_json& object, const char* key) {
  const auto value = object.find(key);
  if (value == object.end()) return "";
  if (!value->is_string()) {
    return absl::InvalidArgumentError(absl::StrCat("a tool's \"", key, "\" is no string"));
  }
  return value->get<std::string>();
}

absl::StatusOr<v1::Tool> ParseTool(const ordered_json& value) {
  const ordered_json& function =
      value.is_object() && value.contains("function") ? value["function"] : value;
  if (!function.is_object() || !function.contains("name")) {
    return absl::InvalidArgumentError("a tool is no object with a \"name\"");
  }
  v1::Tool tool;
  ASSIGN_OR_RETURN(*tool.mutable_name(), Text(function, "name"));
  ASSIGN_OR_RETURN(*tool.mutable_description(), Text(function, "description"));
  if (const auto parameters = function.find("parameters"); parameters != function.end()) {
    tool.set_parameters_json(parameters->dump());
  }
  return tool;
}

}  // namespace

ChatAnswer::ChatAnswer(Reasoning reasoning) : reasoning_(reasoning) {
  message_.set_role("assistant");
}

std::string ChatAnswer::Add(const v1::GenerateResponse& piece) {
  std::string shown;
  message_.mutable_reasoning_content()->append(piece.reasoning_text());
  if (reasoning_ == Reasoning::kDimmed && !piece.reasoning_text().empty()) {
    if (!std::exchange(is_dimmed_, true)) shown += kDim;
    shown += piece.reasoning_text();
  }
  message_.mutable_content()->append(piece.text());
  if (!piece.text().empty()) shown += EndReasoning() + piece.text();
  for (const v1::ToolCall& call : piece.tool_calls()) {
    const auto index = static_cast<size_t>(call.index());
    if (calls_.size() <= index) calls_.resize(index + 1);
    v1::ToolCall& whole = calls_[index];
    whole.set_index(call.index());
    if (!call.id().empty()) whole.set_id(call.id());
    if (!call.name().empty()) whole.set_name(call.name());
    whole.mutable_arguments_json()->append(call.arguments_json());
    whole.set_withdrawn(whole.withdrawn() || call.withdrawn());
  }
  return shown;
}

std::string ChatAnswer::End() {
  std::string shown = EndReasoning();
  bool at_line_start = message_.content().empty();
  for (const v1::ToolCall& call : calls_) {
    if (call.withdrawn() || call.name().empty()) continue;
    *message_.add_tool_calls() = call;
    absl::StrAppend(&shown, at_line_start ? "" : "\n", "call ", call.name(), " ",
                    call.arguments_json());
    at_line_start = false;
  }
  return shown + "\n";
}

std::string ChatAnswer::EndReasoning() {
  return std::exchange(is_dimmed_, false) ? absl::StrCat(kNormal, "\n\n") : "";
}

absl::StatusOr<std::vector<v1::Tool>> ParseTools(std::string_view json) {
  const ordered_json value = ordered_json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return absl::InvalidArgumentError("the tools are not JSON");
  std::vector<v1::Tool> tools;
  for (const ordered_json& element : value.is_array() ? value : ordered_json::array({value})) {
    ASSIGN_OR_RETURN(tools.emplace_back(), ParseTool(element));
  }
  return tools;
}

}  // namespace modeld
