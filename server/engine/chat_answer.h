// From a Chat request to what takes its answer apart: text, reasoning, calls of functions.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"
#include "server/engine/batch/request.h"
#include "server/engine/chat/answer_format.h"
#include "server/engine/chat/tool_set.h"
#include "server/engine/chat_prompt.h"
#include "server/engine/text/chat_template.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// What the answers of a model look like, and its special tokens that tell their parts apart.
struct AnswerTokens {
  AnswerFormat format;
  std::map<int64_t, std::string> texts;  // AnswerFormat::TextOf() of special tokens, by id
};

// Of one model, with and without tools. Made once for each model; immutable.
class AnswerFormats {
 public:
  AnswerFormats() = default;
  AnswerFormats(const ChatTemplate& chat_template, const Tokenizer& tokenizer,
                const SpecialTokens& special_tokens);

  const AnswerTokens& With(bool tools) const { return tools ? with_tools_ : without_tools_; }
  // Whether the template shows the tools to the model, or the model's way to call them is known.
  bool takes_tools() const { return takes_tools_; }

 private:
  AnswerTokens without_tools_;
  AnswerTokens with_tools_;
  bool takes_tools_ = false;
};

// What the model may do with the tools of a request.
struct ToolChoice {
  enum class Kind { kNone, kAuto, kRequired };
  Kind kind = Kind::kNone;
  std::string name;  // with kRequired: of the only tool that may be called; empty: any
};

// INVALID_FIELD for tools that the model's template does not take, a name that is there twice, and
// a choice that names no tool.
absl::StatusOr<ToolChoice> ReadToolChoice(const modeld::v1::ChatRequest& request,
                                          const AnswerFormats& formats);

// The request's switch "thinking_budget": INVALID_FIELD when it is no whole number of at least -1;
// nothing when it is not there, null or -1.
absl::StatusOr<std::optional<int64_t>> ReadThinkingBudget(const std::string& template_args_json);

// What takes the answers to one prompt apart. `formats` and `tokenizer` outlive the generation.
struct ChatAnswer {
  const AnswerTokens& tokens;
  std::shared_ptr<const ToolSet> tools;
  bool in_reasoning = false;  // the prompt opens the reasoning
  uint64_t id_seed = 0;
};

ChatAnswer MakeChatAnswer(const modeld::v1::ChatRequest& request, const ToolChoice& choice,
                          const std::string& prompt, const AnswerFormats& formats);

// For GenerationRequest: one for each choice of the answer.
std::function<std::unique_ptr<AnswerParser>()> AnswerParserOf(const ChatAnswer& answer);

// The text of tokens, with the special tokens of `tokens` in it. `tail`: the last few prompt ids.
std::function<TokenText()> ChatTokenTextOf(const AnswerTokens& tokens, const Tokenizer& tokenizer,
                                           std::span<const int64_t> tail);

}  // namespace modeld
