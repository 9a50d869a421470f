#include "server/engine/chat/marked_json.h"

namespace modeld {
namespace {

CallForm ListForm(std::string_view open, std::string_view close) {
  return {.open = open,
          .head = R"({"name": ")",
          .middle = R"(", "arguments": )",
          .tail = "}",
          .separator = ", ",
          .close = close,
          .is_name_in_json = true};
}

}  // namespace

CallStyle HermesStyle() {
  return {.name = "hermes",
          .evidence = {"<tool_call>"},
          .marks = {"<tool_call>", "</tool_call>"},
          .opening_marks = {"<tool_call>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</tool_call>");
          },
          .forms = {{.head = "<tool_call>\n{\"name\": \"",
                     .middle = R"(", "arguments": )",
                     .tail = "}\n</tool_call>",
                     .separator = "\n",
                     .is_name_in_json = true}}};
}

CallStyle ToolcallListStyle() {
  return {.name = "toolcall-list",
          .evidence = {"<TOOLCALL>"},
          .marks = {"<TOOLCALL>", "</TOOLCALL>"},
          .opening_marks = {"<TOOLCALL>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</TOOLCALL>");
          },
          .forms = {ListForm("<TOOLCALL>[", "]</TOOLCALL>")}};
}

CallStyle ToolCallsListStyle() {
  return {.name = "tool-calls-list",
          .evidence = {"<tool_calls>"},
          .marks = {"<tool_calls>", "</tool_calls>"},
          .opening_marks = {"<tool_calls>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("</tool_calls>");
          },
          .forms = {ListForm("<tool_calls>\n[", "]\n</tool_calls>")}};
}

}  // namespace modeld
