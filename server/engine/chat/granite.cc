#include "server/engine/chat/marked_json.h"

namespace modeld {

CallStyle GraniteStyle() {
  // The mark has a second spelling in Granite 3.1.
  return {.name = "granite",
          .evidence = {"<|tool_call|>"},
          .marks = {"<|tool_call|>", "<tool_call>"},
          .opening_marks = {"<|tool_call|>", "<tool_call>"},
          .make_reader = []() -> std::unique_ptr<CallReader> {
            return std::make_unique<MarkedJsonReader>("");
          },
          .forms = {{.open = "<|tool_call|>[",
                     .head = R"({"name": ")",
                     .middle = R"(", "arguments": )",
                     .tail = "}",
                     .separator = ", ",
                     .close = "]",
                     .is_name_in_json = true}}};
}

}  // namespace modeld
