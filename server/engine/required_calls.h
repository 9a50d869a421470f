// What makes a model call functions: the grammar of a Chat whose tool_choice asks for calls.
#pragma once

#include "absl/status/statusor.h"
#include "modeld/v1/inference.pb.h"
#include "server/engine/chat_answer.h"
#include "server/engine/chat_prompt.h"
#include "server/engine/structure.h"
#include "server/engine/text/grammar.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// What the model was loaded with. All of it outlives the call.
struct CallGrammarTools {
  const Tokenizer& tokenizer;
  const SpecialTokens& special_tokens;
  Structures& structures;
  std::span<const int64_t> end_token_ids;
};

// For an answer that is one or more calls of the tools that `choice` allows, after a reasoning
// where the model has one. METHOD_NOT_SUPPORTED for a model whose way of writing calls is not
// known. INVALID_FIELD, with the place, for a tool's schema that cannot be kept to.
absl::StatusOr<AnswerStructure> RequiredCalls(const modeld::v1::ChatRequest& request,
                                              const ToolChoice& choice, const ChatAnswer& answer,
                                              const CallGrammarTools& tools);

}  // namespace modeld
