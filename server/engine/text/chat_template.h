// A repository's chat template: messages to the prompt's text, by the crate `minijinja`, to the
// byte as transformers' apply_chat_template does it.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// Immutable and thread-safe.
class ChatTemplate {
 public:
  // Finds it in chat_template.jinja, else in tokenizer_config.json (a string, or a list of named
  // templates: "default", and "tool_use" when tools are given). NO_CHAT_TEMPLATE when there is
  // none, INVALID_REPOSITORY when it does not parse.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& snapshot_path);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // All JSON text; key order is kept. `messages_json` is an array of objects, `tools_json` an array
  // or empty, `template_args_json` an object or empty (enable_thinking, ...).
  struct Input {
    std::string messages_json;
    std::string tools_json;
    std::string template_args_json;
    bool add_generation_prompt = true;
    // What strftime_now tells, in the machine's time zone; none means now.
    std::optional<std::chrono::system_clock::time_point> now;
  };
  // INVALID_FIELD for JSON that does not parse and for what the template refuses (raise_exception,
  // with its message), and when it exceeds its limits: 10 million steps, 32 MB of output, 400 MB of
  // memory, 4 s of processor time. A template that exceeded one of the last two is not rendered
  // again, because its thread cannot be ended.
  absl::StatusOr<std::string> Render(const Input& input) const;

  // The source of the template that Render() takes with and without tools; empty when there is
  // none for that.
  const std::string& Source(bool with_tools) const;

 private:
  struct Rep;
  explicit ChatTemplate(std::unique_ptr<Rep> rep);
  std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
