#include <string>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_call.h"

namespace modeld {
namespace {

constexpr std::string_view kCalls = "[TOOL_CALLS]";
constexpr std::string_view kCallId = "[CALL_ID]";
constexpr std::string_view kArguments = "[ARGS]";

class MistralReader final : public CallReader {
 public:
  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        if (symbol.is_space()) return Step::kSettled;
        if (symbol.mark != kCalls) return Step::kLeft;
        at_ = At::kOpened;
        return Step::kPending;
      case At::kOpened:
        return PutOpened(symbol, out);
      case At::kList:
        return PutList(symbol, out);
      case At::kName:
        return PutName(symbol, out);
      case At::kId:
        if (symbol.mark == kArguments) {
          at_ = At::kArguments;
        } else if (symbol.is_byte()) {
          id_ += symbol.byte;
        } else {
          return Step::kBroken;
        }
        return Step::kPending;
      case At::kArguments:
        break;
    }
    return PutArguments(symbol, out);
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kOpened, kList, kName, kId, kArguments };

  Step PutOpened(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_space()) return Step::kPending;
    if (symbol.is_byte() && symbol.byte == '[') {
      at_ = At::kList;
      calls_ = JsonCalls(JsonCall::Arguments::kOptional);
      return PutList(symbol, out);
    }
    at_ = At::kName;
    name_.clear();
    id_.clear();
    arguments_ = {};
    return PutName(symbol, out);
  }

  Step PutList(const Symbol& symbol, CallOutput& out) {
    switch (calls_.Put(symbol, out)) {
      case JsonCalls::Step::kMore:
        return Step::kPending;
      case JsonCalls::Step::kCallDone:
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
    if (symbol.mark == kArguments || symbol.mark == kCallId) {
      if (!out.tools().Has(name_)) return Step::kBroken;
      at_ = symbol.mark == kCallId ? At::kId : At::kArguments;
      return Step::kPending;
    }
    // Some versions have no mark between name and arguments.
    if (symbol.is_byte() && symbol.byte == '{' && out.tools().Has(name_)) {
      at_ = At::kArguments;
      return PutArguments(symbol, out);
    }
    if (symbol.is_space() && out.tools().Has(name_)) return Step::kPending;
    name_ += symbol.text();
    return out.tools().HasPrefix(name_) ? Step::kPending : Step::kBroken;
  }

  Step PutArguments(const Symbol& symbol, CallOutput& out) {
    const Step step = arguments_.Put(symbol, name_, id_, out);
    if (step == Step::kSettled) at_ = At::kBetween;
    return step;
  }

  At at_ = At::kBetween;
  JsonCalls calls_{JsonCall::Arguments::kOptional};
  std::string name_;
  std::string id_;
  JsonArguments arguments_;
};

}  // namespace

CallStyle MistralStyle() {
  return {.name = "mistral",
          .evidence = {kCalls},
          .marks = {kCalls, kCallId, kArguments},
          .opening_marks = {kCalls},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MistralReader>();
          },
          .forms = {{.evidence = kArguments, .head = kCalls, .middle = kArguments},
                    {.open = "[TOOL_CALLS][",
                     .head = R"({"name": ")",
                     .middle = R"(", "arguments": )",
                     .tail = "}",
                     .separator = ", ",
                     .close = "]",
                     .is_name_in_json = true}}};
}

}  // namespace modeld
