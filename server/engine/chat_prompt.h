// From the messages of a chat to the prompt's text and tokens, so that no text of a message can
// become a special token of the model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/repeated_ptr_field.h"
#include "modeld/v1/inference.pb.h"
#include "server/engine/text/chat_template.h"
#include "server/engine/text/tokenizer.h"

namespace modeld {

// The spellings of a tokenizer's special tokens, and the bytes of its longest token. Read once for
// each model.
class SpecialTokens {
 public:
  SpecialTokens() = default;
  explicit SpecialTokens(const Tokenizer& tokenizer);

  const std::vector<std::string>& spellings() const { return spellings_; }  // longest first
  size_t longest_token_bytes() const { return longest_token_bytes_; }

 private:
  std::vector<std::string> spellings_;
  size_t longest_token_bytes_ = 1;
};

struct ChatPrompt {
  std::string text;
  std::vector<int64_t> token_ids;
};

struct ChatPromptInput {
  const google::protobuf::RepeatedPtrField<modeld::v1::ChatMessage>& messages;
  const google::protobuf::RepeatedPtrField<modeld::v1::Tool>& tools;
  const std::string& template_args_json;
  bool add_generation_prompt = true;
};

// Renders and tokenizes. Where a string of the request spells a special token, a placeholder goes
// through the template in its place; in the result the spelling is put back and tokenized as
// ordinary text, while the template's own special tokens stay special. Without such strings the
// tokens are those of transformers. INVALID_FIELD names what is wrong: no messages, JSON that does
// not parse or is no object, or what the template refuses.
absl::StatusOr<ChatPrompt> MakeChatPrompt(const ChatPromptInput& input, const Tokenizer& tokenizer,
                                          const SpecialTokens& special_tokens,
                                          const ChatTemplate& chat_template);

}  // namespace modeld
