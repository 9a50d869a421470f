#include "server/engine/chat/parameter_call.h"

#include "absl/strings/str_cat.h"
#include "server/engine/chat/json_scanner.h"

namespace modeld {

bool ParameterCall::Begin(std::string_view name, CallOutput& out) {
  if (!out.Begin(name)) return false;
  name_ = name;
  out.Arguments("{");
  return true;
}

bool ParameterCall::BeginParameter(std::string_view parameter, CallOutput& out,
                                   std::optional<ParameterTypes> types) {
  const bool is_first = parameters_.empty();
  if (!parameters_.emplace(parameter).second) return false;
  out.Arguments(absl::StrCat(is_first ? "" : ", ", JsonQuote(parameter), ": "));
  value_.emplace(types.value_or(out.tools().TypesOf(name_, parameter)),
                 line_feeds_ == LineFeeds::kTrimmed);
  return true;
}

void ParameterCall::PutValue(std::string_view text, CallOutput& out) {
  for (const char c : text) {
    if (const std::string json = value_->Put(c); !json.empty()) out.Arguments(json);
  }
}

void ParameterCall::EndParameter(CallOutput& out) { out.Arguments(value_->End()); }

void ParameterCall::End(CallOutput& out) {
  out.Arguments("}");
  out.End();
}

}  // namespace modeld
