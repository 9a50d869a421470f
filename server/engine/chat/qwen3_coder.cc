#include <memory>
#include <optional>
#include <string>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/parameter_call.h"

namespace modeld {
namespace {

constexpr std::string_view kCall = "<tool_call>";
constexpr std::string_view kCallEnd = "</tool_call>";
constexpr std::string_view kSeedCall = "<seed:tool_call>";
constexpr std::string_view kSeedCallEnd = "</seed:tool_call>";
constexpr std::string_view kFunction = "<function=";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";

// What a template writes between the tags besides values is one line feed.
class Qwen3CoderReader final : public CallReader {
 public:
  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        if (symbol.mark == kCallEnd || symbol.mark == kSeedCallEnd) return Step::kSettled;
        if (symbol.is_space()) return Step::kSettled;
        return PutOpening(symbol, Step::kLeft);
      case At::kOpened:
        return symbol.is_space() ? Step::kPending : PutOpening(symbol, Step::kBroken);
      case At::kName:
        return PutName(symbol, out);
      case At::kParameters:
        return PutParameters(symbol, out);
      case At::kKey:
        if (symbol.is_byte() && symbol.byte != '>' && symbol.byte != '\n') {
          key_ += symbol.byte;
          return Step::kPending;
        }
        if (!symbol.is_byte() || symbol.byte == '\n') return Step::kBroken;
        at_ = At::kValue;
        return call_->BeginParameter(key_, out) ? Step::kPending : Step::kBroken;
      case At::kValue:
        break;
    }
    // A value may have any other mark in it.
    if (symbol.mark == kParameterEnd) {
      call_->EndParameter(out);
      at_ = At::kParameters;
    } else {
      call_->PutValue(symbol.text(), out);
    }
    return Step::kPending;
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kOpened, kName, kParameters, kKey, kValue };

  // The tag around the function may be missing.
  Step PutOpening(const Symbol& symbol, Step otherwise) {
    if (symbol.mark == kCall || symbol.mark == kSeedCall) {
      at_ = At::kOpened;
      return otherwise == Step::kLeft ? Step::kPending : Step::kBroken;
    }
    if (symbol.mark != kFunction) return otherwise;
    at_ = At::kName;
    name_.clear();
    return Step::kPending;
  }

  Step PutName(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_byte() && symbol.byte == '>') {
      call_.emplace(ParameterCall::LineFeeds::kTrimmed);
      if (!call_->Begin(name_, out)) return Step::kBroken;
      at_ = At::kParameters;
      return Step::kPending;
    }
    name_ += symbol.text();
    return out.tools().HasPrefix(name_) ? Step::kPending : Step::kBroken;
  }

  Step PutParameters(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_space()) return Step::kPending;
    if (symbol.mark == kParameter) {
      at_ = At::kKey;
      key_.clear();
      return Step::kPending;
    }
    const bool is_end =
        symbol.mark == kFunctionEnd || symbol.mark == kCallEnd || symbol.mark == kSeedCallEnd;
    if (!is_end) return Step::kBroken;
    call_->End(out);
    at_ = At::kBetween;
    return Step::kSettled;
  }

  At at_ = At::kBetween;
  std::string name_;
  std::string key_;
  std::optional<ParameterCall> call_;
};

CallForm FormBetween(std::string_view evidence, std::string_view head, std::string_view tail) {
  return {.evidence = evidence,
          .head = head,
          .middle = ">\n",
          .tail = tail,
          .separator = "\n",
          .parameter_head = kParameter,
          .text_middle = ">\n",
          .json_middle = ">\n",
          .parameter_tail = "\n</parameter>\n"};
}

}  // namespace

CallStyle Qwen3CoderStyle() {
  return {.name = "qwen3-coder",
          .evidence = {kFunction, kParameter},
          .marks = {kCall, kCallEnd, kSeedCall, kSeedCallEnd, kFunction, kFunctionEnd, kParameter,
                    kParameterEnd},
          .opening_marks = {kCall, kSeedCall, kFunction},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<Qwen3CoderReader>();
          },
          .forms = {FormBetween(kSeedCall,
                                "<seed:tool_call>\n<function=", "</function>\n</seed:tool_call>"),
                    FormBetween("", "<tool_call>\n<function=", "</function>\n</tool_call>")}};
}

}  // namespace modeld
