// Takes checked values out of a JSON object of a repository.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// Both ends are allowed.
template <typename T>
struct Range {
  T min;
  T max;
};

// Keeps the first error (INVALID_REPOSITORY, naming file, key and value) and answers with the
// smallest allowed value or the fallback from then on, so that a family reads all of its keys and
// asks for status() once. A key whose value is null counts as absent.
class ConfigReader {
 public:
  // `object` outlives the reader. `where` precedes keys in messages: "config.json".
  ConfigReader(const nlohmann::json& object, std::string where);

  bool Has(std::string_view key) const;
  int64_t Int(std::string_view key, Range<int64_t> range);
  int64_t IntOr(std::string_view key, Range<int64_t> range, int64_t fallback);
  double NumberOr(std::string_view key, Range<double> range, double fallback);
  // The same where null says "none", which is 0.
  int64_t IntOrNone(std::string_view key, Range<int64_t> range, int64_t fallback);
  double NumberOrNone(std::string_view key, Range<double> range, double fallback);
  bool BoolOr(std::string_view key, bool fallback);
  std::string StringOr(std::string_view key, std::string_view fallback);
  // One number or a list of them; absent: empty.
  std::vector<int64_t> IntsOf(std::string_view key, Range<int64_t> range);
  std::vector<double> NumbersOf(std::string_view key, Range<double> range);
  std::vector<std::string> StringsOf(std::string_view key);
  // From now on `key` is read from where this file has it under another name.
  void Alias(std::string_view key, std::string_view name) { aliases_.emplace(key, name); }
  // The object at `key`, which Has(); an empty one, and an error, when it is something else.
  const nlohmann::json& ObjectAt(std::string_view key);

  // INVALID_REPOSITORY "<where>: <key> is <value>, but <must>", unless there is an error already.
  void Refuse(std::string_view key, std::string_view value, std::string_view must);
  void Fail(absl::Status error);
  const absl::Status& status() const { return status_; }
  const std::string& where() const { return where_; }

 private:
  const nlohmann::json* Find(std::string_view key) const;
  std::string NameOf(std::string_view key) const;  // in the file

  const nlohmann::json& object_;
  const std::string where_;
  std::map<std::string, std::string, std::less<>> aliases_;
  absl::Status status_;
};

// The JSON object that `text` is; INVALID_REPOSITORY naming `file` and the place of the mistake.
// Objects nested deeper than 64 are refused.
absl::StatusOr<nlohmann::json> ParseJsonObject(std::string_view text, std::string_view file);

}  // namespace modeld
