#include "server/engine/chat/call_grammar.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "absl/strings/str_join.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kSpace = "SPACE: /[ \\n]{1,4}/\n";
constexpr std::string_view kNumber = "NUMBER: /[0-9]{1,3}/\n";
constexpr std::string_view kText = "/(?s:.*)/";
// As between the tokens of any JSON that an answer must be (the crate's grammar.rs).
constexpr const char* kJsonSpace = R"(\x20|\n\x20{0,40}|\n\t{0,20})";

// absl::StrCat, which does not take std::string_view here.
template <typename... Parts>
std::string Cat(const Parts&... parts) {
  std::string out;
  ((out += parts), ...);
  return out;
}

class Writer {
 public:
  Writer(const CallForm& form, const CallGrammarOptions& options)
      : form_(form), options_(options) {}

  absl::StatusOr<std::string> Write(const std::vector<CallableTool>& tools) {
    std::vector<std::string> calls;
    for (const CallableTool& tool : tools) {
      ASSIGN_OR_RETURN(std::string call, Call(tool));
      calls.push_back(AddRule("call", call));
    }
    const std::string call = AddRule("any", absl::StrJoin(calls, " | "));
    std::string start;
    if (options_.reasoning) {
      const auto& [open, close] = *options_.reasoning;
      const std::string thought = Cat(Piece(open), " ", TextUntil(close));
      // What the prompt has begun must end; what the model may begin need not be.
      start = open.empty() ? thought : Cat("(", thought, ")?");
    }
    start += Cat(" SPACE? ", Piece(form_.open), " ", call);
    if (!options_.one_call && !form_.is_one_call) {
      start += Cat(" (", Piece(form_.separator), " ", call, ")*");
    }
    start += Cat(" ", Piece(form_.close));
    return Cat("start: ", start, "\n", rules_, kSpace, kNumber);
  }

 private:
  absl::StatusOr<std::string> Call(const CallableTool& tool) {
    std::string name = tool.name;
    if (form_.is_name_in_json) {
      name = Json(name).dump();
      name = name.substr(1, name.size() - 2);
    }
    const bool one_by_one = !form_.parameter_head.empty();
    std::string arguments;
    if (one_by_one) {
      ASSIGN_OR_RETURN(arguments, Parameters(tool));
    } else {
      ASSIGN_OR_RETURN(arguments, ArgumentsObject(tool));
    }
    return Cat(Piece(Cat(form_.head, name, form_.middle)), " ", arguments, " ", Piece(form_.tail));
  }

  static absl::StatusOr<std::string> ArgumentsObject(const CallableTool& tool) {
    Json schema = tool.parameters;
    const auto type = schema.find("type");
    if (type != schema.end() && *type != "object") {
      return InvalidField(tool.field, "the arguments of a call are an object, and \"type\" is not");
    }
    schema["type"] = "object";
    return JsonValue(schema);
  }

  static std::string JsonValue(Json schema) {
    schema["x-guidance"] = Json{{"whitespace_pattern", kJsonSpace}};
    return Cat("%json ", schema.dump());
  }

  // In the order of the schema; those that are not required may be left out.
  absl::StatusOr<std::string> Parameters(const CallableTool& tool) {
    static const std::set<std::string> kKnown = {
        "type",        "properties", "required", "additionalProperties", "$defs",
        "definitions", "$schema",    "title",    "description",          "strict"};
    for (const auto& [keyword, value] : tool.parameters.items()) {
      if (!kKnown.contains(keyword)) {
        return InvalidField(tool.field, Cat("at \"/", keyword,
                                            "\": cannot be kept to where a model writes parameters "
                                            "one by one"));
      }
    }
    const Json required = tool.parameters.value("required", Json::array());
    const Json properties = tool.parameters.value("properties", Json::object());
    for (const Json& key : required) {
      if (properties.contains(key.get<std::string>())) continue;
      return InvalidField(tool.field,
                          Cat("requires ", key.dump(), ", which is not one of its \"properties\""));
    }
    std::string out;
    for (const auto& [key, schema] : properties.items()) {
      ASSIGN_OR_RETURN(const std::string parameter, Parameter(tool, key, schema));
      const bool is_required = std::ranges::find(required, Json(key)) != required.end();
      out += Cat(out.empty() ? "" : " ", parameter, is_required ? "" : "?");
    }
    return out;
  }

  absl::StatusOr<std::string> Parameter(const CallableTool& tool, const std::string& key,
                                        const Json& schema) {
    const std::string to_text = Cat(form_.parameter_head, key, form_.text_middle);
    const std::string place = Cat("at \"/properties/", key, "\": ");
    if (schema.is_object() && IsTextEnum(schema)) {
      std::vector<std::string> texts;
      for (const Json& text : schema["enum"]) texts.push_back(Literal(text.get<std::string>()));
      return AddRule("parameter", Cat(Piece(to_text), " (", absl::StrJoin(texts, " | "), ") ",
                                      Piece(form_.parameter_tail)));
    }
    if (schema.is_object() && schema.value("type", Json()) == "string") {
      static constexpr std::array kNotKept = {"pattern", "minLength", "maxLength", "format",
                                              "const",   "anyOf",     "oneOf",     "allOf",
                                              "not",     "$ref",      "enum"};
      for (const char* keyword : kNotKept) {
        if (!schema.contains(keyword)) continue;
        return InvalidField(tool.field,
                            Cat(place, "\"", keyword,
                                "\" cannot be kept to where a model writes texts as they "
                                "are"));
      }
      return AddRule("parameter", Cat(Piece(to_text), " ", TextUntil(form_.parameter_tail)));
    }
    // A text among other values cannot be told from them when it stands as it is.
    if (!schema.is_object() || !IsNeverText(schema)) {
      return InvalidField(tool.field, Cat(place,
                                          "a model that writes texts as they are needs "
                                          "a \"type\", of texts alone or of none"));
    }
    Json value = schema;
    for (const char* definitions : {"$defs", "definitions"}) {
      if (tool.parameters.contains(definitions)) value[definitions] = tool.parameters[definitions];
    }
    return AddRule("parameter", Cat(Piece(Cat(form_.parameter_head, key, form_.json_middle)), " ",
                                    JsonValue(value), " ", Piece(form_.parameter_tail)));
  }

  static bool IsTextEnum(const Json& schema) {
    const auto values = schema.find("enum");
    return values != schema.end() && values->is_array() && !values->empty() &&
           std::ranges::all_of(*values, [](const Json& value) {
             return value.is_string() && !value.get_ref<const std::string&>().empty();
           });
  }

  static bool IsNeverText(const Json& schema) {
    const auto type = schema.find("type");
    if (type == schema.end()) return false;
    if (type->is_string()) return *type != "string";
    return type->is_array() && std::ranges::find(*type, Json("string")) == type->end();
  }

  // Free text and what ends it.
  std::string TextUntil(std::string_view end) {
    const auto [at, id] = NextSpecial(end);
    if (at == 0) return Cat(AddRule("text", std::string(kText)), " ", Piece(end));
    const std::string name = Cat("text", std::to_string(rules_count_++));
    rules_ += Cat(name, "[suffix=", Literal(end.substr(0, at)), "]: ", kText, "\n");
    return Cat(name, " ", at < end.size() ? Piece(end.substr(at)) : "");
  }

  std::string AddRule(std::string_view kind, const std::string& body) {
    std::string name = Cat(kind, std::to_string(rules_count_++));
    rules_ += Cat(name, ": ", body, "\n");
    return name;
  }

  // Where the first special token stands in `text`, and its number; the end when there is none.
  std::pair<size_t, size_t> NextSpecial(std::string_view text) const {
    for (size_t at = 0; at < text.size(); ++at) {
      for (size_t i = 0; i < options_.special_tokens.size(); ++i) {
        if (text.substr(at).starts_with(options_.special_tokens[i].first)) return {at, i};
      }
    }
    return {text.size(), 0};
  }

  std::string Piece(std::string_view text) const {
    std::vector<std::string> parts;
    while (!text.empty()) {
      const auto [special, i] = NextSpecial(text);
      const size_t number = text.find(CallForm::kAnyNumber);
      const size_t end = std::min({special, number, text.size()});
      if (end > 0) parts.push_back(Literal(text.substr(0, end)));
      text.remove_prefix(end);
      if (text.empty()) break;
      if (end == number) {
        parts.emplace_back("NUMBER");
        text.remove_prefix(1);
      } else {
        const auto& [spelling, id] = options_.special_tokens[i];
        parts.push_back(Cat("<[", std::to_string(id), "]>"));
        text.remove_prefix(spelling.size());
      }
    }
    return absl::StrJoin(parts, " ");
  }

  static std::string Literal(std::string_view text) { return Json(text).dump(); }

  const CallForm& form_;
  const CallGrammarOptions& options_;
  std::string rules_;
  int rules_count_ = 0;
};

}  // namespace

absl::StatusOr<std::string> CallGrammar(const CallForm& form,
                                        const std::vector<CallableTool>& tools,
                                        const CallGrammarOptions& options) {
  return Writer(form, options).Write(tools);
}

}  // namespace modeld
