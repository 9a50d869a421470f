#include "server/engine/chat/marked_json.h"

namespace modeld {

CallStyle HermesStyle() {
  return {.name = "hermes",
          .evidence = {"<tool_call>"},
          .marks = {"<tool_call>", "</tool_call>"},
          .opening_marks = {"<tool_call>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</tool_call>");
          }};
}

CallStyle ToolcallListStyle() {
  return {.name = "toolcall-list",
          .evidence = {"<TOOLCALL>"},
          .marks = {"<TOOLCALL>", "</TOOLCALL>"},
          .opening_marks = {"<TOOLCALL>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</TOOLCALL>");
          }};
}

CallStyle ToolCallsListStyle() {
  return {.name = "tool-calls-list",
          .evidence = {"<tool_calls>"},
          .marks = {"<tool_calls>", "</tool_calls>"},
          .opening_marks = {"<tool_calls>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</tool_calls>");
          }};
}

}  // namespace modeld
