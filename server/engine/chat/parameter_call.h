// Writes the arguments of a call whose parameters a model writes one by one as text.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "server/engine/chat/call_output.h"
#include "server/engine/chat/parameter_text.h"

namespace modeld {

// One call. One thread at a time.
class ParameterCall {
 public:
  enum class LineFeeds { kKept, kTrimmed };

  // `line_feeds`: whether one at the beginning and one at the end of a value is no part of it.
  explicit ParameterCall(LineFeeds line_feeds) : line_feeds_(line_feeds) {}

  // False when no tool has the name.
  bool Begin(std::string_view name, CallOutput& out);
  // False for a parameter that was there. Types come from the tool's schema unless given.
  bool BeginParameter(std::string_view parameter, CallOutput& out,
                      std::optional<ParameterTypes> types = std::nullopt);
  void PutValue(std::string_view text, CallOutput& out);
  void EndParameter(CallOutput& out);
  void End(CallOutput& out);

 private:
  const LineFeeds line_feeds_;
  std::string name_;
  std::set<std::string, std::less<>> parameters_;
  std::optional<ParameterText> value_;
};

}  // namespace modeld
