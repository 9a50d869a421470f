#include "server/engine/chat/tool_set.h"

#include <utility>

#include "nlohmann/json.hpp"

namespace modeld {
namespace {

using nlohmann::json;

// References and alternatives below one another; deeper ones say nothing.
constexpr int kDepthMax = 8;

void AddTypeName(const std::string& name, ParameterTypes& types) {
  types.string |= name == "string";
  types.boolean |= name == "boolean";
  types.null |= name == "null";
  types.integer |= name == "integer";
  types.number |= name == "number";
  types.array |= name == "array";
  types.object |= name == "object";
}

void AddTypeOfValue(const json& value, ParameterTypes& types) {
  types.string |= value.is_string();
  types.boolean |= value.is_boolean();
  types.null |= value.is_null();
  types.integer |= value.is_number_integer();
  types.number |= value.is_number_float();
  types.array |= value.is_array();
  types.object |= value.is_object();
}

// What a reference into the same document names, or nothing.
const json* Resolve(const json& root, const json& reference) {
  if (!reference.is_string()) return nullptr;
  const auto& text = reference.get_ref<const std::string&>();
  if (!text.starts_with('#')) return nullptr;
  try {
    const json::json_pointer pointer(text.substr(1));
    return root.contains(pointer) ? &root.at(pointer) : nullptr;
  } catch (const json::exception&) {  // a pointer that is none
    return nullptr;
  }
}

void AddTypes(const json& root, const json& schema, int depth, ParameterTypes& types) {
  if (!schema.is_object() || depth > kDepthMax) return;
  for (const auto& [key, value] : schema.items()) {
    if (key == "type" && value.is_string()) AddTypeName(value, types);
    if (key == "type" && value.is_array()) {
      for (const json& name : value) {
        if (name.is_string()) AddTypeName(name, types);
      }
    }
    if (key == "const") AddTypeOfValue(value, types);
    if (key == "enum" && value.is_array()) {
      for (const json& element : value) AddTypeOfValue(element, types);
    }
    if ((key == "anyOf" || key == "oneOf" || key == "allOf") && value.is_array()) {
      for (const json& element : value) AddTypes(root, element, depth + 1, types);
    }
    if (key == "$ref") {
      if (const json* target = Resolve(root, value)) AddTypes(root, *target, depth + 1, types);
    }
    // Without a type these say what it is.
    types.object |= key == "properties";
    types.array |= key == "items";
  }
}

}  // namespace

void ToolSet::Add(std::string name, std::string_view parameters_json) {
  Parameters parameters;
  const json schema = json::parse(parameters_json, nullptr, /*allow_exceptions=*/false);
  if (schema.is_object()) {
    const auto properties = schema.find("properties");
    if (properties != schema.end() && properties->is_object()) {
      for (const auto& [parameter, value] : properties->items()) {
        ParameterTypes types;
        AddTypes(schema, value, 0, types);
        parameters[parameter] = types == ParameterTypes() ? ParameterTypes::Text() : types;
      }
    }
  }
  functions_[std::move(name)] = std::move(parameters);
}

bool ToolSet::HasPrefix(std::string_view prefix) const {
  const auto at = functions_.lower_bound(prefix);
  return at != functions_.end() && at->first.starts_with(prefix);
}

ParameterTypes ToolSet::TypesOf(std::string_view name, std::string_view parameter) const {
  const auto function = functions_.find(name);
  if (function == functions_.end()) return ParameterTypes::Text();
  const auto types = function->second.find(parameter);
  return types == function->second.end() ? ParameterTypes::Text() : types->second;
}

}  // namespace modeld
