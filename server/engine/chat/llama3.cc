#include <string>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_call.h"

namespace modeld {
namespace {

constexpr std::string_view kPythonTag = "<|python_tag|>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";

class Llama3Reader final : public CallReader {
 public:
  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        return PutBetween(symbol, out);
      case At::kJson:
        return PutJson(symbol, out);
      case At::kName:
        return PutName(symbol, out);
      case At::kArguments:
        break;
    }
    const Step step = arguments_.Put(symbol, name_, "", out);
    if (step == Step::kSettled) at_ = At::kBetween;
    return step;
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kJson, kName, kArguments };

  Step PutBetween(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_space() || (symbol.is_byte() && symbol.byte == ';')) return Step::kSettled;
    if (symbol.mark == kFunctionEnd) return Step::kSettled;
    if (symbol.mark == kFunction) {
      at_ = At::kName;
      name_.clear();
      return Step::kPending;
    }
    // Text that begins with a brace is a call only when it says what to call it with.
    calls_ = JsonCalls(JsonCall::Arguments::kRequired);
    if (symbol.mark == kPythonTag) {
      at_ = At::kJson;
      return Step::kPending;
    }
    if (symbol.byte != '{' && symbol.byte != '[') return Step::kLeft;
    at_ = At::kJson;
    return PutJson(symbol, out);
  }

  Step PutJson(const Symbol& symbol, CallOutput& out) {
    switch (calls_.Put(symbol, out)) {
      case JsonCalls::Step::kMore:
        return Step::kPending;
      case JsonCalls::Step::kCallDone:
        at_ = calls_.is_list() ? At::kJson : At::kBetween;
        return Step::kSettled;
      case JsonCalls::Step::kDone:
        at_ = At::kBetween;
        return Step::kSettled;
      case JsonCalls::Step::kBroken:
        break;
    }
    return Step::kBroken;
  }

  Step PutName(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_byte() && symbol.byte == '>' && out.tools().Has(name_)) {
      at_ = At::kArguments;
      arguments_ = {};
      return Step::kPending;
    }
    const std::string longer = name_ + std::string(symbol.text());
    if (!out.tools().HasPrefix(longer)) return Step::kBroken;
    name_ = longer;
    return Step::kPending;
  }

  At at_ = At::kBetween;
  JsonCalls calls_{JsonCall::Arguments::kRequired};
  std::string name_;
  JsonArguments arguments_;
};

CallStyle Style(std::vector<std::string_view> evidence) {
  return {.name = "llama3",
          .evidence = std::move(evidence),
          .marks = {kPythonTag, kFunction, kFunctionEnd},
          .opening_marks = {kPythonTag, kFunction},
          .opening_bytes = "{[",
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<Llama3Reader>();
          },
          .forms = {{.head = R"({"name": ")",
                     .middle = R"(", "parameters": )",
                     .tail = "}",
                     .separator = "; ",
                     .is_name_in_json = true}}};
}

}  // namespace

CallStyle Llama3Style() { return Style({kPythonTag}); }

CallStyle SmallLlama3Style() { return Style({"<|start_header_id|>", R"("parameters": )"}); }

}  // namespace modeld
