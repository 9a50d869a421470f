#include "server/engine/weights/config_reader.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

constexpr int kDepthMax = 64;
// An index of 100,000 tensors has as many; parsed, a value takes up to 200 bytes.
constexpr int64_t kValuesMax = 2 << 20;
constexpr size_t kShownValueBytes = 80;

std::string Shown(const nlohmann::json& value) {
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() > kShownValueBytes) text = text.substr(0, kShownValueBytes) + "...";
  return text;
}

}  // namespace

ConfigReader::ConfigReader(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {}

std::string ConfigReader::NameOf(std::string_view key) const {
  const auto alias = aliases_.find(key);
  return alias == aliases_.end() ? std::string(key) : alias->second;
}

const nlohmann::json* ConfigReader::Find(std::string_view key) const {
  const auto found = object_.find(NameOf(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::Has(std::string_view key) const { return Find(key) != nullptr; }

int64_t ConfigReader::Int(std::string_view key, Range<int64_t> range) {
  if (!Has(key)) {
    Fail(Error(Reason::kInvalidRepository,
               absl::StrFormat("%s: %s is missing", where_, NameOf(key))));
    return range.min;
  }
  return IntOr(key, range, range.min);
}

int64_t ConfigReader::IntOr(std::string_view key, Range<int64_t> range, int64_t fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  // Numbers above 2^63 are unsigned here and would turn negative.
  const bool fits = value->is_number_integer() &&
                    (!value->is_number_unsigned() || value->get<uint64_t>() <= INT64_MAX);
  const int64_t number = fits ? value->get<int64_t>() : 0;
  if (!fits || number < range.min || number > range.max) {
    Refuse(key, Shown(*value),
           absl::StrFormat("must be an integer from %d to %d", range.min, range.max));
    return range.min;
  }
  return number;
}

double ConfigReader::NumberOr(std::string_view key, Range<double> range, double fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : NAN;
  // A NaN fails both comparisons.
  if (!(number >= range.min && number <= range.max)) {
    Refuse(key, Shown(*value),
           absl::StrFormat("must be a number from %g to %g", range.min, range.max));
    return range.min;
  }
  return number;
}

int64_t ConfigReader::IntOrNone(std::string_view key, Range<int64_t> range, int64_t fallback) {
  return IntOr(key, range, object_.contains(NameOf(key)) ? 0 : fallback);
}

double ConfigReader::NumberOrNone(std::string_view key, Range<double> range, double fallback) {
  return NumberOr(key, range, object_.contains(NameOf(key)) ? 0 : fallback);
}

bool ConfigReader::BoolOr(std::string_view key, bool fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Refuse(key, Shown(*value), "must be true or false");
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::StringOr(std::string_view key, std::string_view fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) {
    Refuse(key, Shown(*value), "must be a string");
    return std::string(fallback);
  }
  return value->get<std::string>();
}

std::vector<int64_t> ConfigReader::IntsOf(std::string_view key, Range<int64_t> range) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {IntOr(key, range, range.min)};
  std::vector<int64_t> numbers;
  for (const nlohmann::json& item : *value) {
    const nlohmann::json wrapped = {{std::string(key), item}};
    ConfigReader one(wrapped, where_);
    numbers.push_back(one.Int(key, range));
    Fail(one.status());
  }
  return numbers;
}

std::vector<double> ConfigReader::NumbersOf(std::string_view key, Range<double> range) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {NumberOr(key, range, range.min)};
  std::vector<double> numbers;
  for (const nlohmann::json& item : *value) {
    const nlohmann::json wrapped = {{NameOf(key), item}};
    ConfigReader one(wrapped, where_);
    numbers.push_back(one.NumberOr(NameOf(key), range, range.min));
    Fail(one.status());
  }
  return numbers;
}

std::vector<std::string> ConfigReader::StringsOf(std::string_view key) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return {};
  std::vector<std::string> strings;
  const bool is_list = value->is_array();
  for (const nlohmann::json& item : is_list ? *value : nlohmann::json::array({*value})) {
    if (!is_list || !item.is_string()) {
      Refuse(key, Shown(*value), "must be a list of strings");
      return {};
    }
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

const nlohmann::json& ConfigReader::ObjectAt(std::string_view key) {
  static const nlohmann::json kEmpty = nlohmann::json::object();
  const nlohmann::json* value = Find(key);
  if (value == nullptr || !value->is_object()) {
    Refuse(key, value == nullptr ? "absent" : Shown(*value), "must be an object");
    return kEmpty;
  }
  return *value;
}

void ConfigReader::Refuse(std::string_view key, std::string_view value, std::string_view must) {
  Fail(Error(Reason::kInvalidRepository,
             absl::StrFormat("%s: %s is %s, but %s", where_, NameOf(key), value, must)));
}

void ConfigReader::Fail(absl::Status error) {
  if (status_.ok()) status_ = std::move(error);
}

absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file) {
  bool too_deep = false;
  int64_t values = 0;
  const auto watch = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    too_deep = too_deep || depth > kDepthMax;
    return !too_deep && ++values <= kValuesMax;
  };
  try {
    nlohmann::json value = nlohmann::json::parse(text, watch);
    if (values > kValuesMax) {
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("%s has more than %d values", file, kValuesMax));
    }
    if (too_deep) {
      return Error(Reason::kInvalidRepository,
                   absl::StrFormat("%s is nested deeper than %d", file, kDepthMax));
    }
    if (!value.is_object()) {
      return Error(Reason::kInvalidRepository, absl::StrFormat("%s is not a JSON object", file));
    }
    return value;
  } catch (const nlohmann::json::exception& e) {
    return Error(Reason::kInvalidRepository,
                 absl::StrFormat("%s is not valid JSON: %s", file, e.what()));
  }
}

}  // namespace modeld
