// Errors: absl::Status with the details that callers of the API get to see, and the two macros
// that pass them on. The words are those of google.rpc's error details; no protobuf is needed here.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// One bad argument; `field` is the name in the request, such as "cache_location".
struct FieldViolation {
  std::string field;
  std::string description;

  bool operator==(const FieldViolation&) const = default;
};

// What is missing, as in google.rpc.ResourceInfo.
struct MissingResource {
  std::string type;  // "model", "operation", "repository", ...
  std::string name;

  bool operator==(const MissingResource&) const = default;
};

// What an error says beside its code and message. `reason` is UPPER_SNAKE and stable.
struct ErrorDetails {
  std::string reason;
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> fields;
  std::optional<std::chrono::milliseconds> retry_after;
  std::optional<MissingResource> resource;

  bool operator==(const ErrorDetails&) const = default;
};

// A status that carries `details`. `code` must not be OK.
absl::Status ErrorWithDetails(absl::StatusCode code, std::string_view message,
                              const ErrorDetails& details);

// The details of `status`; empty ones when it has none.
ErrorDetails DetailsOf(const absl::Status& status);

// DetailsOf(status).reason, "" when it has none.
std::string ReasonOf(const absl::Status& status);

// The same status, its message preceded by "`context`: ". Details stay. OK stays OK.
absl::Status WithContext(const absl::Status& status, std::string_view context);

// A status as JSON text for the database and back: {"code":5,"message":"...","details":{...}}.
// Text that is not such JSON gives INTERNAL with the text's first bytes.
std::string StatusToJson(const absl::Status& status);
absl::Status StatusFromJson(std::string_view json);

// Ends the process with the values of a broken invariant: systemd restarts it, and recovery is the
// ordinary start. For bugs only, never for input.
[[noreturn]] void Panic(std::string_view what, const char* file, int line);

}  // namespace modeld

#define MODELD_CHECK(condition, what)                            \
  do {                                                           \
    if (!(condition)) ::modeld::Panic(what, __FILE__, __LINE__); \
  } while (false)

// RETURN_IF_ERROR(expression of absl::Status);
#define RETURN_IF_ERROR(expression)                                         \
  do {                                                                      \
    if (absl::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)

#define MODELD_CONCAT_INNER(a, b) a##b
#define MODELD_CONCAT(a, b) MODELD_CONCAT_INNER(a, b)

// ASSIGN_OR_RETURN(declaration or lvalue, expression of absl::StatusOr);
#define ASSIGN_OR_RETURN(lhs, expression) \
  MODELD_ASSIGN_OR_RETURN(MODELD_CONCAT(status_or_, __LINE__), lhs, expression)
#define MODELD_ASSIGN_OR_RETURN(temporary, lhs, expression)  \
  auto temporary = (expression);                             \
  if (!temporary.ok()) return std::move(temporary).status(); \
  lhs = *std::move(temporary)
