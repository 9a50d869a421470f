// Matchers for absl::Status and absl::StatusOr in tests.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/status.h"
#include "server/core/reason.h"

namespace modeld {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
  return result.status();
}

// EXPECT_THAT(DoIt(), IsOk());
MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).ok();
}

// EXPECT_THAT(DoIt(), StatusIs(absl::StatusCode::kNotFound));
MATCHER_P(StatusIs, code, "has the code " + absl::StatusCodeToString(code)) {
  *result_listener << StatusOf(arg).ToString();
  return StatusOf(arg).code() == code;
}

// EXPECT_THAT(DoIt(), HasReasonOf(Reason::kModelNotFound)); checks the reason and its code.
MATCHER_P(HasReasonOf, reason, "has the reason " + std::string(ReasonName(reason))) {
  *result_listener << StatusOf(arg).ToString() << " reason \"" << ReasonOf(StatusOf(arg)) << "\"";
  return StatusOf(arg).code() == ReasonCode(reason) && HasReason(StatusOf(arg), reason);
}

// EXPECT_THAT(status, NamesField("cache_location")); the first violation names the field.
MATCHER_P(NamesField, field, "is INVALID_FIELD and names the field " + std::string(field)) {
  *result_listener << StatusOf(arg).ToString();
  const ErrorDetails details = DetailsOf(StatusOf(arg));
  return HasReason(StatusOf(arg), Reason::kInvalidField) && !details.fields.empty() &&
         details.fields.front().field == field;
}

}  // namespace modeld
