#include "server/engine/chat_prompt.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"

namespace modeld {
namespace {

using nlohmann::ordered_json;

// Deeper than any schema; what walks the JSON, here and in the template, is recursive.
constexpr int kDepthMax = 100;

bool IsTooDeep(std::string_view json) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < json.size(); ++i) {
    const char c = json[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kDepthMax) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// JSON text of an object in the caller's order of keys; INVALID_FIELD for anything else.
absl::StatusOr<ordered_json> ParseObject(const std::string& text, const std::string& field) {
  if (IsTooDeep(text)) {
    return InvalidField(field, absl::StrCat("is nested deeper than ", kDepthMax));
  }
  ordered_json value = ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return InvalidField(field, "is not JSON");
  if (!value.is_object()) return InvalidField(field, "is not a JSON object");
  return value;
}

absl::StatusOr<ordered_json> ToolCallJson(const modeld::v1::ToolCall& call,
                                          const std::string& field) {
  ordered_json arguments = ordered_json::object();
  if (!call.arguments_json().empty()) {
    ASSIGN_OR_RETURN(arguments, ParseObject(call.arguments_json(), field + ".arguments_json"));
  }
  ordered_json out;
  if (!call.id().empty()) out["id"] = call.id();
  out["type"] = "function";
  out["function"] = {{"name", call.name()}, {"arguments", std::move(arguments)}};
  return out;
}

absl::StatusOr<ordered_json> MessageJson(const modeld::v1::ChatMessage& message,
                                         const std::string& field) {
  if (message.role().empty()) return InvalidField(field + ".role", "is empty");
  ordered_json out;
  out["role"] = message.role();
  out["content"] = message.content();
  if (!message.reasoning_content().empty()) out["reasoning_content"] = message.reasoning_content();
  for (int i = 0; i < message.tool_calls_size(); ++i) {
    ASSIGN_OR_RETURN(ordered_json call, ToolCallJson(message.tool_calls(i),
                                                     absl::StrCat(field, ".tool_calls[", i, "]")));
    out["tool_calls"].push_back(std::move(call));
  }
  if (!message.tool_call_id().empty()) out["tool_call_id"] = message.tool_call_id();
  if (!message.name().empty()) out["name"] = message.name();
  return out;
}

// As OpenAI's API and transformers have it.
absl::StatusOr<ordered_json> ToolJson(const modeld::v1::Tool& tool, const std::string& field) {
  if (tool.name().empty()) return InvalidField(field + ".name", "is empty");
  ordered_json function;
  function["name"] = tool.name();
  if (!tool.description().empty()) function["description"] = tool.description();
  if (!tool.parameters_json().empty()) {
    ASSIGN_OR_RETURN(function["parameters"],
                     ParseObject(tool.parameters_json(), field + ".parameters_json"));
  }
  return ordered_json{{"type", "function"}, {"function", std::move(function)}};
}

// The request's strings with placeholders for what they spell of special tokens.
class Placeholders {
 public:
  // `texts` is all JSON text of the request: the mark must not be part of it.
  Placeholders(const SpecialTokens& special_tokens, std::string_view texts)
      : spellings_(special_tokens.spellings()) {
    // Noncharacters of Unicode: no template handles them, and few texts have them. The first one
    // stands nowhere else in the mark, so that text beside a mark cannot run into it.
    std::string middle;
    do {
      mark_ = absl::StrCat("\uFDD0", middle, "\uFDD2");
      middle += "\uFDD1";
    } while (texts.find(mark_) != std::string_view::npos);
  }

  void Hide(ordered_json& value) const {
    if (value.is_string()) {
      value = Hidden(value.get_ref<const std::string&>());
    } else if (value.is_array()) {
      for (ordered_json& element : value) Hide(element);
    } else if (value.is_object()) {
      ordered_json hidden = ordered_json::object();
      for (auto& [key, element] : value.items()) {
        Hide(element);
        hidden[Hidden(key)] = std::move(element);
      }
      value = std::move(hidden);
    }
  }

  // Calls text(part) and spelling(special token) for the parts of a rendered prompt, in order.
  template <typename OnText, typename OnSpelling>
  absl::Status Split(std::string_view rendered, OnText text, OnSpelling spelling) const {
    while (true) {
      const size_t begin = rendered.find(mark_);
      if (begin != 0 && !rendered.empty()) RETURN_IF_ERROR(text(rendered.substr(0, begin)));
      if (begin == std::string_view::npos) return absl::OkStatus();
      rendered.remove_prefix(begin + mark_.size());
      const size_t end = rendered.find(mark_);
      size_t index = 0;
      if (end != std::string_view::npos &&
          absl::SimpleAtoi(std::string(rendered.substr(0, end)), &index) &&
          index < spellings_.size()) {
        RETURN_IF_ERROR(spelling(spellings_[index]));
        rendered.remove_prefix(end + mark_.size());
      }
    }
  }

 private:
  std::string Hidden(std::string_view text) const {
    std::string out;
    for (size_t at = 0; at < text.size();) {
      const auto spelling = std::ranges::find_if(
          spellings_, [&](const std::string& s) { return text.substr(at).starts_with(s); });
      if (spelling == spellings_.end()) {
        out += text[at++];
      } else {
        absl::StrAppend(&out, mark_, spelling - spellings_.begin(), mark_);
        at += spelling->size();
      }
    }
    return out;
  }

  const std::vector<std::string>& spellings_;
  std::string mark_;
};

struct RequestJson {
  ordered_json messages = ordered_json::array();
  ordered_json tools = ordered_json::array();
  ordered_json template_args = ordered_json::object();
};

absl::StatusOr<RequestJson> ToJson(const ChatPromptInput& input) {
  if (input.messages.empty()) return InvalidField("messages", "is empty");
  RequestJson out;
  for (int i = 0; i < input.messages.size(); ++i) {
    ASSIGN_OR_RETURN(ordered_json message,
                     MessageJson(input.messages[i], absl::StrCat("messages[", i, "]")));
    out.messages.push_back(std::move(message));
  }
  for (int i = 0; i < input.tools.size(); ++i) {
    ASSIGN_OR_RETURN(ordered_json tool, ToolJson(input.tools[i], absl::StrCat("tools[", i, "]")));
    out.tools.push_back(std::move(tool));
  }
  if (!input.template_args_json.empty()) {
    ASSIGN_OR_RETURN(out.template_args,
                     ParseObject(input.template_args_json, "template_args_json"));
  }
  return out;
}

}  // namespace

SpecialTokens::SpecialTokens(const Tokenizer& tokenizer) {
  for (int64_t id = 0; id < tokenizer.vocab_size(); ++id) {
    std::string spelling = tokenizer.TokenSpelling(id);
    longest_token_bytes_ = std::max(longest_token_bytes_, spelling.size());
    if (!spelling.empty() && tokenizer.IsSpecial(id)) spellings_.push_back(std::move(spelling));
  }
  std::ranges::stable_sort(spellings_, std::ranges::greater(), &std::string::size);
}

absl::StatusOr<ChatPrompt> MakeChatPrompt(const ChatPromptInput& input, const Tokenizer& tokenizer,
                                          const SpecialTokens& special_tokens,
                                          const ChatTemplate& chat_template) {
  ASSIGN_OR_RETURN(RequestJson json, ToJson(input));
  const Placeholders placeholders(
      special_tokens,
      absl::StrCat(json.messages.dump(), json.tools.dump(), json.template_args.dump()));
  for (ordered_json* part : {&json.messages, &json.tools, &json.template_args}) {
    placeholders.Hide(*part);
  }
  ASSIGN_OR_RETURN(
      const std::string rendered,
      chat_template.Render(
          {.messages_json = json.messages.dump(),
           .tools_json = json.tools.empty() ? "" : json.tools.dump(),
           .template_args_json = json.template_args.empty() ? "" : json.template_args.dump(),
           .add_generation_prompt = input.add_generation_prompt}));
  ChatPrompt prompt;
  const auto append = [&](std::string_view part, bool parse_special_tokens) -> absl::Status {
    prompt.text += part;
    ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                     tokenizer.Encode(part, /*add_special_tokens=*/false, parse_special_tokens));
    prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(placeholders.Split(
      rendered, [&](std::string_view text) { return append(text, true); },
      [&](std::string_view spelling) { return append(spelling, false); }));
  return prompt;
}

}  // namespace modeld
