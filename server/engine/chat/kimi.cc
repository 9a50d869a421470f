#include <string>

#include "absl/strings/ascii.h"
#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_call.h"

namespace modeld {
namespace {

constexpr std::string_view kCalls = "<|tool_calls_section_begin|>";
constexpr std::string_view kCallsEnd = "<|tool_calls_section_end|>";
constexpr std::string_view kCall = "<|tool_call_begin|>";
constexpr std::string_view kArguments = "<|tool_call_argument_begin|>";
constexpr std::string_view kCallEnd = "<|tool_call_end|>";

constexpr size_t kIdBytesMax = 300;

// "functions.NAME:INDEX" -> NAME.
std::string_view NameOf(std::string_view id) {
  constexpr std::string_view kPrefix = "functions.";
  if (id.starts_with(kPrefix)) id.remove_prefix(kPrefix.size());
  return id.substr(0, id.rfind(':'));
}

class KimiReader final : public CallReader {
 public:
  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        return PutBetween(symbol);
      case At::kOpened:
        if (symbol.is_space()) return Step::kPending;
        if (symbol.mark != kCall) return Step::kBroken;
        BeginCall();
        return Step::kPending;
      case At::kId:
        return PutId(symbol, out);
      case At::kArguments:
        break;
    }
    const Step step = arguments_.Put(symbol, NameOf(id_), id_, out);
    if (step == Step::kSettled) at_ = At::kBetween;
    return step;
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kOpened, kId, kArguments };

  Step PutBetween(const Symbol& symbol) {
    if (symbol.mark == kCalls) {
      at_ = At::kOpened;
      return Step::kPending;
    }
    if (symbol.mark == kCall) {
      BeginCall();
      return Step::kPending;
    }
    const bool is_end = symbol.mark == kCallEnd || symbol.mark == kCallsEnd;
    return is_end || symbol.is_space() ? Step::kSettled : Step::kLeft;
  }

  void BeginCall() {
    at_ = At::kId;
    id_.clear();
    arguments_ = {};
  }

  Step PutId(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_byte() && id_.size() < kIdBytesMax) {
      id_ += symbol.byte;
      return Step::kPending;
    }
    absl::StripAsciiWhitespace(&id_);
    if (symbol.mark != kArguments || !out.tools().Has(NameOf(id_))) return Step::kBroken;
    at_ = At::kArguments;
    return Step::kPending;
  }

  At at_ = At::kBetween;
  std::string id_;
  JsonArguments arguments_;
};

}  // namespace

CallStyle KimiStyle() {
  return {
      .name = "kimi",
      .evidence = {kArguments},
      .marks = {kCalls, kCallsEnd, kCall, kArguments, kCallEnd},
      .opening_marks = {kCalls, kCall},
      .make_reader = []() -> std::unique_ptr<CallReader> { return std::make_unique<KimiReader>(); },
      .forms = {{.open = kCalls,
                 .head = "<|tool_call_begin|>functions.",
                 .middle = ":\x01<|tool_call_argument_begin|>",
                 .tail = kCallEnd,
                 .close = kCallsEnd}}};
}

}  // namespace modeld
