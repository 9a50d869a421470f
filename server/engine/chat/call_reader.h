// Reads the calls of functions out of an answer, in the style that the model was taught.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "server/engine/chat/call_form.h"
#include "server/engine/chat/call_output.h"
#include "server/engine/chat/mark_scanner.h"

namespace modeld {

// Reads one group of calls, from the symbol that opens it on. One thread at a time.
class CallReader {
 public:
  enum class Step {
    kPending,  // taken; may turn out to be text, with all that is pending
    kSettled,  // taken; it and what was pending belongs to complete calls
    kLeft,     // not taken: the group ended before it, nothing is pending
    kBroken,   // not taken: what is pending is text
  };

  virtual ~CallReader() = default;

  // The first symbol is one that opens a group, and is taken. Not called again after kLeft or
  // kBroken.
  virtual Step Put(const Symbol& symbol, CallOutput& out) = 0;
  // When nothing follows: whether what is pending is complete.
  virtual bool Finish(CallOutput& out) = 0;
};

// How one family of models writes calls.
struct CallStyle {
  std::string_view name;
  // What a chat template of such a model has in it.
  std::vector<std::string_view> evidence;
  std::vector<std::string_view> marks;
  // Of `marks`: those that open a group anywhere in an answer.
  std::vector<std::string_view> opening_marks;
  // Bytes that open a group where an answer begins.
  std::string_view opening_bytes;
  std::unique_ptr<CallReader> (*make_reader)();
  // The first whose evidence the template has.
  std::vector<CallForm> forms;
};

// The style that a chat template's source shows; null when it shows none.
const CallStyle* CallStyleOf(std::string_view template_source);

// <tool_call>{"name": NAME, "arguments": {...}}</tool_call>: Hermes, Qwen, Granite 4 and others.
CallStyle HermesStyle();
// The same between other tags, in a list: Nemotron, Apriel, MiniMax M1.
CallStyle ToolcallListStyle();
CallStyle ToolCallsListStyle();
// <|tool_call|>[{"name": NAME, "arguments": {...}}]: Granite 3.
CallStyle GraniteStyle();
// <tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>.
CallStyle Qwen3CoderStyle();
// An answer that is {"name": NAME, "parameters": {...}}, or several with ";" between; or
// <function=NAME>{...}</function>.
CallStyle Llama3Style();
// The same for templates that do not name the tokens of built-in tools.
CallStyle SmallLlama3Style();
// [TOOL_CALLS][{"name": NAME, "arguments": {...}}], or [TOOL_CALLS]NAME[ARGS]{...} for each call.
CallStyle MistralStyle();
// Calls between tokens for their begin and end: V3, R1 and V3.1 with their distillates.
CallStyle DeepSeekStyle();
// Invocations with a tag for each parameter: DeepSeek V3.2 and V4.
CallStyle DeepSeekDsmlStyle();
// The same with other tags.
CallStyle MiniMaxStyle();
// <|tool_call_begin|>functions.NAME:INDEX<|tool_call_argument_begin|>{...}<|tool_call_end|>.
CallStyle KimiStyle();
// <tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>: GLM and others.
CallStyle GlmStyle();

}  // namespace modeld
