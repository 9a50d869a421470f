#include "client/rate.h"

#include <cmath>
#include <string_view>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"

namespace modeld {
namespace {

// Of "", "b", "kb", "kib", ...
std::optional<double> UnitOf(std::string unit) {
  if (unit.ends_with('b')) unit.pop_back();
  if (unit.empty()) return 1;
  const bool binary = unit.size() == 2 && unit[1] == 'i';
  const size_t power = std::string_view("kmgt").find(unit[0]);
  if (power == std::string_view::npos || (unit.size() != 1 && !binary)) return std::nullopt;
  return std::pow(binary ? 1024.0 : 1000.0, static_cast<double>(power) + 1);
}

}  // namespace

std::optional<int64_t> ParseRate(const std::string& text) {
  std::string rate = absl::AsciiStrToLower(text);
  if (rate == "none") return 0;
  if (rate.ends_with("/s")) rate.resize(rate.size() - 2);
  const size_t end = rate.find_first_not_of("0123456789.");
  std::string unit = end == std::string::npos ? "" : rate.substr(end);
  absl::StripAsciiWhitespace(&unit);
  double number = 0;
  if (!absl::SimpleAtod(rate.substr(0, end), &number)) return std::nullopt;
  const std::optional<double> factor = UnitOf(unit);
  if (!factor) return std::nullopt;
  const double bytes = std::round(number * *factor);
  // Beyond 2^53 a double skips whole bytes, and nobody's network gets there.
  if (!(bytes <= 9e15)) return std::nullopt;
  return static_cast<int64_t>(bytes);
}

}  // namespace modeld
