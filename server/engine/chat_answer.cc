#include "server/engine/chat_answer.h"

#include <algorithm>
#include <random>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "server/core/reason.h"
#include "server/engine/chat/answer_parser.h"

namespace modeld {
namespace {

AnswerTokens TokensOf(std::string_view template_source, bool with_tools, const Tokenizer& tokenizer,
                      const SpecialTokens& special_tokens) {
  const std::set<std::string> specials(special_tokens.spellings().begin(),
                                       special_tokens.spellings().end());
  AnswerTokens out;
  out.format = AnswerFormat(template_source, with_tools,
                            [&](const std::string& mark) { return specials.contains(mark); });
  for (const std::string& special : specials) {
    const std::optional<int64_t> id = tokenizer.TokenId(special);
    std::string text = out.format.TextOf(special);
    if (id && !text.empty()) out.texts[*id] = std::move(text);
  }
  return out;
}

// Turns tokens into text. One thread at a time.
class ChatTokenStream {
 public:
  ChatTokenStream(const AnswerTokens& tokens, const Tokenizer& tokenizer, std::vector<int64_t> tail)
      : tokens_(tokens),
        tokenizer_(tokenizer),
        tail_tokens_max_(tail.size()),
        tail_(std::move(tail)),
        stream_(NewStream()) {}

  std::string Put(std::optional<int64_t> id) {
    if (!id) return stream_->Finish();
    tail_.push_back(*id);
    if (tail_.size() > std::max<size_t>(tail_tokens_max_, 1)) tail_.erase(tail_.begin());
    const auto special = tokens_.texts.find(*id);
    if (special == tokens_.texts.end()) return stream_->Put(*id);
    // Characters do not reach over a special token.
    std::string text = stream_->Finish() + special->second;
    stream_ = NewStream();
    return text;
  }

 private:
  std::unique_ptr<TokenStream> NewStream() const {
    return std::make_unique<TokenStream>(tokenizer_, tail_, /*skip_special_tokens=*/true);
  }

  const AnswerTokens& tokens_;
  const Tokenizer& tokenizer_;
  const size_t tail_tokens_max_;
  std::vector<int64_t> tail_;  // the last tokens of prompt and answer
  std::unique_ptr<TokenStream> stream_;
};

}  // namespace

AnswerFormats::AnswerFormats(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                             const SpecialTokens& special_tokens)
    : without_tools_(TokensOf(chat_template.Source(false), false, tokenizer, special_tokens)),
      with_tools_(TokensOf(chat_template.Source(true), true, tokenizer, special_tokens)),
      takes_tools_(chat_template.Source(true).find("tools") != std::string::npos ||
                   with_tools_.format.calls() != nullptr) {}

absl::StatusOr<ToolChoice> ReadToolChoice(const modeld::v1::ChatRequest& request,
                                          const AnswerFormats& formats) {
  std::set<std::string> names;
  for (int i = 0; i < request.tools_size(); ++i) {
    if (names.insert(request.tools(i).name()).second) continue;
    return InvalidField(absl::StrCat("tools[", i, "].name"),
                        absl::StrCat("\"", request.tools(i).name(), "\" is there twice"));
  }
  const std::string& choice = request.tool_choice();
  if (choice == "none") return ToolChoice{};
  if (!names.empty() && !formats.takes_tools()) {
    return InvalidField("tools", "the model's chat template takes none");
  }
  if (choice.empty() || choice == "auto") {
    return ToolChoice{.kind = names.empty() ? ToolChoice::Kind::kNone : ToolChoice::Kind::kAuto};
  }
  if (names.empty()) return InvalidField("tool_choice", "needs tools");
  if (choice == "required") return ToolChoice{.kind = ToolChoice::Kind::kRequired};
  if (!names.contains(choice)) {
    return InvalidField(
        "tool_choice", absl::StrCat("\"", choice, "\" is neither auto, none, required nor a tool"));
  }
  return ToolChoice{.kind = ToolChoice::Kind::kRequired, .name = choice};
}

absl::StatusOr<std::optional<int64_t>> ReadThinkingBudget(const std::string& template_args_json) {
  const nlohmann::json args =
      nlohmann::json::parse(template_args_json, nullptr, /*allow_exceptions=*/false);
  // What is no object is refused with the prompt.
  const auto budget = args.is_object() ? args.find("thinking_budget") : args.end();
  if (budget == args.end() || budget->is_null()) return std::nullopt;
  if (!budget->is_number_integer() || *budget < -1) {
    return InvalidField("template_args_json", absl::StrCat("thinking_budget is ", budget->dump(),
                                                           ", not a number of tokens or -1"));
  }
  const auto tokens = budget->get<int64_t>();
  if (tokens < 0) return std::nullopt;
  return tokens;
}

ChatAnswer MakeChatAnswer(const modeld::v1::ChatRequest& request, const ToolChoice& choice,
                          const std::string& prompt, const AnswerFormats& formats) {
  auto tools = std::make_shared<ToolSet>();
  const bool with_tools = choice.kind != ToolChoice::Kind::kNone;
  for (const modeld::v1::Tool& tool : request.tools()) {
    const bool may_be_called = choice.name.empty() || tool.name() == choice.name;
    if (with_tools && may_be_called) tools->Add(tool.name(), tool.parameters_json());
  }
  const AnswerTokens& tokens = formats.With(with_tools);
  std::random_device random;
  return {.tokens = tokens,
          .tools = std::move(tools),
          .in_reasoning = tokens.format.EndsInReasoning(prompt),
          .id_seed = (uint64_t{random()} << 32) | random()};
}

std::function<std::unique_ptr<AnswerParser>()> AnswerParserOf(const ChatAnswer& answer) {
  return [answer, seed = answer.id_seed]() mutable {
    return std::make_unique<AnswerParser>(
        answer.tokens.format, answer.tools,
        AnswerParser::Options{.id_seed = seed++, .in_reasoning = answer.in_reasoning});
  };
}

std::function<TokenText()> ChatTokenTextOf(const AnswerTokens& tokens, const Tokenizer& tokenizer,
                                           std::span<const int64_t> tail) {
  return [&tokens, &tokenizer, tail = std::vector<int64_t>(tail.begin(), tail.end())] {
    auto stream = std::make_shared<ChatTokenStream>(tokens, tokenizer, tail);
    return [stream](std::optional<int64_t> id) { return stream->Put(id); };
  };
}

}  // namespace modeld
