// A parameter that a model writes as plain text, turned into JSON by its schema.
#pragma once

#include <string>

#include "server/engine/chat/tool_set.h"

namespace modeld {

// Text goes out as a JSON string while it comes; what may be another kind of value is held until
// its end. A line feed at the beginning and one at the end are left out when `trims_line_feeds`.
// One thread at a time.
class ParameterText {
 public:
  ParameterText(const ParameterTypes& types, bool trims_line_feeds);

  // The JSON that is certain with one more byte.
  std::string Put(char c);
  // The rest.
  std::string End();

 private:
  const ParameterTypes types_;
  const bool trims_line_feeds_;
  bool at_start_ = true;
  bool line_feed_held_ = false;
  std::string held_;  // all of it, when it may be no string
};

// The JSON of a whole text: the kind of value that `types` allows and the text is; else a string.
std::string JsonOfText(std::string_view text, const ParameterTypes& types);

}  // namespace modeld
