#include <algorithm>
#include <string_view>
#include <vector>

#include "server/engine/chat/call_reader.h"

namespace modeld {

const CallStyle* CallStyleOf(std::string_view template_source) {
  // Those with marks that stand in no other style come first.
  static const std::vector<CallStyle> kStyles = {
      KimiStyle(),         DeepSeekStyle(),      DeepSeekDsmlStyle(), MiniMaxStyle(),
      MistralStyle(),      GlmStyle(),           Qwen3CoderStyle(),   GraniteStyle(),
      ToolcallListStyle(), ToolCallsListStyle(), HermesStyle(),       Llama3Style(),
      SmallLlama3Style()};
  const auto style = std::ranges::find_if(kStyles, [template_source](const CallStyle& s) {
    return std::ranges::all_of(s.evidence, [template_source](std::string_view evidence) {
      return template_source.find(evidence) != std::string_view::npos;
    });
  });
  return style == kStyles.end() ? nullptr : &*style;
}

}  // namespace modeld
