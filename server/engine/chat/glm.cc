#include <memory>
#include <optional>
#include <string>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/parameter_call.h"

namespace modeld {
namespace {

constexpr std::string_view kCall = "<tool_call>";
constexpr std::string_view kCallEnd = "</tool_call>";
constexpr std::string_view kKey = "<arg_key>";
constexpr std::string_view kKeyEnd = "</arg_key>";
constexpr std::string_view kValue = "<arg_value>";
constexpr std::string_view kValueEnd = "</arg_value>";

class GlmReader final : public CallReader {
 public:
  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        if (symbol.is_space()) return Step::kSettled;
        if (symbol.mark != kCall) return Step::kLeft;
        at_ = At::kName;
        name_.clear();
        return Step::kPending;
      case At::kName:
        return PutName(symbol, out);
      case At::kParameters:
        return PutParameters(symbol, out);
      case At::kKey:
        if (symbol.mark == kKeyEnd) {
          at_ = At::kValueOpening;
        } else if (symbol.is_byte()) {
          key_ += symbol.byte;
        } else {
          return Step::kBroken;
        }
        return Step::kPending;
      case At::kValueOpening:
        if (symbol.is_space()) return Step::kPending;
        if (symbol.mark != kValue || !call_->BeginParameter(key_, out)) return Step::kBroken;
        at_ = At::kValue;
        return Step::kPending;
      case At::kValue:
        break;
    }
    if (symbol.mark == kValueEnd) {
      call_->EndParameter(out);
      at_ = At::kParameters;
    } else {
      call_->PutValue(symbol.text(), out);
    }
    return Step::kPending;
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kName, kParameters, kKey, kValueOpening, kValue };

  Step PutName(const Symbol& symbol, CallOutput& out) {
    if (symbol.mark == kKey || symbol.mark == kCallEnd) {
      call_.emplace(ParameterCall::LineFeeds::kKept);
      if (!call_->Begin(name_, out)) return Step::kBroken;
      return PutParameters(symbol, out);
    }
    if (symbol.is_space() && (name_.empty() || out.tools().Has(name_))) return Step::kPending;
    name_ += symbol.text();
    return out.tools().HasPrefix(name_) ? Step::kPending : Step::kBroken;
  }

  Step PutParameters(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_space()) return Step::kPending;
    if (symbol.mark == kKey) {
      at_ = At::kKey;
      key_.clear();
      return Step::kPending;
    }
    if (symbol.mark != kCallEnd) return Step::kBroken;
    call_->End(out);
    at_ = At::kBetween;
    return Step::kSettled;
  }

  At at_ = At::kBetween;
  std::string name_;
  std::string key_;
  std::optional<ParameterCall> call_;
};

}  // namespace

CallStyle GlmStyle() {
  return {
      .name = "glm",
      .evidence = {kKey},
      .marks = {kCall, kCallEnd, kKey, kKeyEnd, kValue, kValueEnd},
      .opening_marks = {kCall},
      .make_reader = []() -> std::unique_ptr<CallReader> { return std::make_unique<GlmReader>(); },
      .forms = {{.head = kCall,
                 .middle = "\n",
                 .tail = kCallEnd,
                 .separator = "\n",
                 .parameter_head = kKey,
                 .text_middle = "</arg_key>\n<arg_value>",
                 .json_middle = "</arg_key>\n<arg_value>",
                 .parameter_tail = "</arg_value>\n"}}};
}

}  // namespace modeld
