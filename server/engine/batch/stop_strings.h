// Finds stop strings in text that comes in pieces.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace modeld {

// Lets text through up to the first stop string, and holds back what may be the beginning of one.
// The match that ends first wins, the longest of those that end there: the same one however the
// text is cut. Pieces are whole UTF-8 characters in and out. One thread at a time.
class StopStrings {
 public:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // The text that may be shown now. After a match nothing more comes out.
  std::string Put(std::string_view text);
  // What is held back, once no more text follows.
  std::string Finish();

  // The stop string that was found.
  const std::optional<std::string>& match() const { return match_; }

 private:
  size_t HeldBytes() const;

  const std::vector<std::string> stops_;
  std::string held_;  // a proper prefix of a stop string, or empty
  std::optional<std::string> match_;
};

}  // namespace modeld
