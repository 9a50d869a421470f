#include "server/engine/batch/stop_strings.h"

#include <algorithm>
#include <utility>

namespace modeld {

std::string StopStrings::Put(std::string_view text) {
  if (match_) return "";
  held_ += text;
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t stop_end = at + stop.size();
    if (stop_end > end || (stop_end == end && stop.size() <= match_->size())) continue;
    end = stop_end;
    match_ = stop;
  }
  if (match_) {
    std::string shown = held_.substr(0, end - match_->size());
    held_.clear();
    return shown;
  }
  const size_t shown_bytes = held_.size() - HeldBytes();
  std::string shown = held_.substr(0, shown_bytes);
  held_.erase(0, shown_bytes);
  return shown;
}

std::string StopStrings::Finish() { return std::exchange(held_, ""); }

// The longest end of held_ with which some stop string begins. A stop string is UTF-8, so that end
// begins with a whole character.
size_t StopStrings::HeldBytes() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) longest = n;
    }
  }
  return longest;
}

}  // namespace modeld
