#include <string>

#include "absl/strings/ascii.h"
#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/json_call.h"

namespace modeld {
namespace {

constexpr std::string_view kCalls = "<｜tool▁calls▁begin｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr std::string_view kCall = "<｜tool▁call▁begin｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";

// What may stand between the separator and the arguments: a name and "```json".
constexpr size_t kHeadBytesMax = 300;

// V3.1 writes NAME, separator and arguments; V3 and R1 write "function", separator, NAME, and the
// arguments in a code block.
class DeepSeekReader final : public CallReader {
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
      case At::kType:
        if (symbol.mark == kSeparator) {
          at_ = At::kHead;
          return Step::kPending;
        }
        return Collect(symbol, type_);
      case At::kHead:
        if (!symbol.is_byte() || symbol.byte != '{') return Collect(symbol, head_);
        at_ = At::kArguments;
        ReadName();
        break;
      case At::kArguments:
        break;
    }
    const Step step = arguments_.Put(symbol, name_, "", out);
    if (step == Step::kSettled) at_ = At::kBetween;
    return step;
  }

  bool Finish(CallOutput& /*out*/) override { return at_ == At::kBetween; }

 private:
  enum class At { kBetween, kOpened, kType, kHead, kArguments };

  Step PutBetween(const Symbol& symbol) {
    if (symbol.mark == kCalls) {
      at_ = At::kOpened;
      return Step::kPending;
    }
    if (symbol.mark == kCall) {
      BeginCall();
      return Step::kPending;
    }
    if (symbol.mark == kCallEnd || symbol.mark == kCallsEnd) {
      in_fence_ = false;
      return Step::kSettled;
    }
    const bool is_fence = in_fence_ && symbol.is_byte() && symbol.byte == '`';
    return is_fence || symbol.is_space() ? Step::kSettled : Step::kLeft;
  }

  void BeginCall() {
    at_ = At::kType;
    type_.clear();
    head_.clear();
    arguments_ = {};
  }

  static Step Collect(const Symbol& symbol, std::string& text) {
    if (!symbol.is_byte() || text.size() == kHeadBytesMax) return Step::kBroken;
    text += symbol.byte;
    return Step::kPending;
  }

  void ReadName() {
    const std::string_view first_line = std::string_view(head_).substr(0, head_.find('\n'));
    in_fence_ = head_.find("```") != std::string::npos;
    name_ = first_line.find_first_not_of(" \r") == std::string_view::npos ? type_ : first_line;
    absl::StripAsciiWhitespace(&name_);
  }

  At at_ = At::kBetween;
  std::string type_;
  std::string head_;
  std::string name_;
  bool in_fence_ = false;
  JsonArguments arguments_;
};

}  // namespace

CallStyle DeepSeekStyle() {
  return {.name = "deepseek",
          .evidence = {kSeparator},
          .marks = {kCalls, kCallsEnd, kCall, kCallEnd, kSeparator},
          .opening_marks = {kCalls, kCall},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<DeepSeekReader>();
          },
          .forms = {{.evidence = "```json",
                     .open = kCalls,
                     .head = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
                     .middle = "\n```json\n",
                     .tail = "\n```<｜tool▁call▁end｜>",
                     .separator = "\n",
                     .close = kCallsEnd},
                    {.open = kCalls,
                     .head = kCall,
                     .middle = kSeparator,
                     .tail = kCallEnd,
                     .close = kCallsEnd}}};
}

}  // namespace modeld
