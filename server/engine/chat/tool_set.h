// The functions that a request offers to the model.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace modeld {

// Which kinds of JSON value a parameter may have by its schema.
struct ParameterTypes {
  bool string = false;
  bool boolean = false;
  bool null = false;
  bool integer = false;
  bool number = false;  // any number; integers too
  bool array = false;
  bool object = false;

  // Where the schema says nothing: text is text.
  static ParameterTypes Text() { return {.string = true}; }
  bool is_text_only() const {
    return string && !boolean && !null && !integer && !number && !array && !object;
  }
  bool operator==(const ParameterTypes&) const = default;
};

// Immutable once filled; thread-safe then.
class ToolSet {
 public:
  // `parameters_json`: the JSON schema of the arguments object, or empty. What is no schema offers
  // no types.
  void Add(std::string name, std::string_view parameters_json);

  bool empty() const { return functions_.empty(); }
  bool Has(std::string_view name) const { return functions_.contains(name); }
  // Whether a name begins so.
  bool HasPrefix(std::string_view prefix) const;
  ParameterTypes TypesOf(std::string_view name, std::string_view parameter) const;

 private:
  using Parameters = std::map<std::string, ParameterTypes, std::less<>>;

  std::map<std::string, Parameters, std::less<>> functions_;
};

}  // namespace modeld
