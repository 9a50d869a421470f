#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "server/engine/chat/call_reader.h"
#include "server/engine/chat/parameter_call.h"

namespace modeld {
namespace {

struct Tags {
  std::vector<std::string_view> open;
  std::vector<std::string_view> close;
  std::string_view invoke;  // up to the quote before the name
  std::string_view invoke_end;
  std::string_view parameter;
  std::string_view parameter_end;
};

bool Has(const std::vector<std::string_view>& marks, const Symbol& symbol) {
  return !symbol.is_byte() && std::ranges::find(marks, symbol.mark) != marks.end();
}

// string="false" says that the value is JSON; string="true", that it is text whatever the schema
// says.
std::optional<ParameterTypes> TypesOf(std::string_view attributes) {
  if (attributes.find("string=\"true\"") != std::string_view::npos) return ParameterTypes::Text();
  if (attributes.find("string=\"false\"") == std::string_view::npos) return std::nullopt;
  return ParameterTypes{.boolean = true,
                        .null = true,
                        .integer = true,
                        .number = true,
                        .array = true,
                        .object = true};
}

class InvokeReader final : public CallReader {
 public:
  explicit InvokeReader(const Tags& tags) : tags_(tags) {}

  Step Put(const Symbol& symbol, CallOutput& out) override {
    switch (at_) {
      case At::kBetween:
        return PutBetween(symbol);
      case At::kOpened:
        if (symbol.is_space()) return Step::kPending;
        return symbol.mark == tags_.invoke ? BeginName() : Step::kBroken;
      case At::kName:
        return PutName(symbol, out);
      case At::kParameters:
        return PutParameters(symbol, out);
      case At::kKey:
        return PutKey(symbol, out);
      case At::kValue:
        break;
    }
    if (symbol.mark == tags_.parameter_end) {
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

  Step PutBetween(const Symbol& symbol) {
    if (symbol.is_space() || Has(tags_.close, symbol)) return Step::kSettled;
    if (symbol.mark == tags_.invoke) return BeginName();
    if (!Has(tags_.open, symbol)) return Step::kLeft;
    at_ = At::kOpened;
    return Step::kPending;
  }

  Step BeginName() {
    at_ = At::kName;
    name_.clear();
    return Step::kPending;
  }

  // NAME">
  Step PutName(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_byte() && symbol.byte == '>' && name_.ends_with('"')) {
      name_.pop_back();
      call_.emplace(ParameterCall::LineFeeds::kKept);
      if (!call_->Begin(name_, out)) return Step::kBroken;
      at_ = At::kParameters;
      return Step::kPending;
    }
    name_ += symbol.text();
    const bool is_name =
        out.tools().HasPrefix(name_) ||
        (name_.ends_with('"') && out.tools().Has(name_.substr(0, name_.size() - 1)));
    return is_name ? Step::kPending : Step::kBroken;
  }

  Step PutParameters(const Symbol& symbol, CallOutput& out) {
    if (symbol.is_space()) return Step::kPending;
    if (symbol.mark == tags_.parameter) {
      at_ = At::kKey;
      key_.clear();
      return Step::kPending;
    }
    if (symbol.mark != tags_.invoke_end) return Step::kBroken;
    call_->End(out);
    at_ = At::kBetween;
    return Step::kSettled;
  }

  // KEY" and attributes, up to ">".
  Step PutKey(const Symbol& symbol, CallOutput& out) {
    if (!symbol.is_byte() || symbol.byte == '\n') return Step::kBroken;
    if (symbol.byte != '>') {
      key_ += symbol.byte;
      return Step::kPending;
    }
    const size_t quote = key_.find('"');
    if (quote == std::string::npos) return Step::kBroken;
    const std::string_view key = key_;
    at_ = At::kValue;
    return call_->BeginParameter(key.substr(0, quote), out, TypesOf(key.substr(quote + 1)))
               ? Step::kPending
               : Step::kBroken;
  }

  const Tags& tags_;
  At at_ = At::kBetween;
  std::string name_;
  std::string key_;
  std::optional<ParameterCall> call_;
};

const Tags& DsmlTags() {
  static const Tags kTags = {
      .open = {"<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"},
      .close = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"},
      .invoke = "<｜DSML｜invoke name=\"",
      .invoke_end = "</｜DSML｜invoke>",
      .parameter = "<｜DSML｜parameter name=\"",
      .parameter_end = "</｜DSML｜parameter>",
  };
  return kTags;
}

const Tags& MiniMaxTags() {
  static const Tags kTags = {
      .open = {"<minimax:tool_call>"},
      .close = {"</minimax:tool_call>"},
      .invoke = "<invoke name=\"",
      .invoke_end = "</invoke>",
      .parameter = "<parameter name=\"",
      .parameter_end = "</parameter>",
  };
  return kTags;
}

std::vector<std::string_view> MarksOf(const Tags& tags) {
  std::vector<std::string_view> marks = {tags.invoke, tags.invoke_end, tags.parameter,
                                         tags.parameter_end};
  marks.insert(marks.end(), tags.open.begin(), tags.open.end());
  marks.insert(marks.end(), tags.close.begin(), tags.close.end());
  return marks;
}

}  // namespace

CallStyle DeepSeekDsmlStyle() {
  return {.name = "deepseek-dsml",
          .evidence = {"｜DSML｜", "invoke name="},
          .marks = MarksOf(DsmlTags()),
          .opening_marks = DsmlTags().open,
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<InvokeReader>(DsmlTags());
          },
          .forms = {{.evidence = "DSML｜tool_calls",
                     .open = "<｜DSML｜tool_calls>\n",
                     .head = DsmlTags().invoke,
                     .middle = "\">\n",
                     .tail = "</｜DSML｜invoke>\n",
                     .close = "</｜DSML｜tool_calls>",
                     .parameter_head = DsmlTags().parameter,
                     .text_middle = R"(" string="true">)",
                     .json_middle = R"(" string="false">)",
                     .parameter_tail = "</｜DSML｜parameter>\n"},
                    {.open = "<｜DSML｜function_calls>\n",
                     .head = DsmlTags().invoke,
                     .middle = "\">\n",
                     .tail = "</｜DSML｜invoke>\n",
                     .close = "</｜DSML｜function_calls>",
                     .parameter_head = DsmlTags().parameter,
                     .text_middle = R"(" string="true">)",
                     .json_middle = R"(" string="false">)",
                     .parameter_tail = "</｜DSML｜parameter>\n"}}};
}

CallStyle MiniMaxStyle() {
  return {.name = "minimax",
          .evidence = {"minimax:tool_call", "<invoke name="},
          .marks = MarksOf(MiniMaxTags()),
          .opening_marks = MiniMaxTags().open,
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<InvokeReader>(MiniMaxTags());
          },
          .forms = {{.open = "<minimax:tool_call>\n",
                     .head = MiniMaxTags().invoke,
                     .middle = "\">\n",
                     .tail = "</invoke>\n",
                     .close = "</minimax:tool_call>",
                     .parameter_head = MiniMaxTags().parameter,
                     .text_middle = "\">",
                     .json_middle = "\">",
                     .parameter_tail = "</parameter>\n"}}};
}

}  // namespace modeld
