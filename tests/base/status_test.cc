#include "server/base/status.h"

#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

ErrorDetails EveryDetail() {
  return {.reason = "SOME_REASON",
          .metadata = {{"free_bytes", "12"}},
          .fields = {{"cache_location", "is none of these"}},
          .retry_after = std::chrono::milliseconds(1500),
          .resource = MissingResource{"model", "m"}};
}

TEST(StatusTest, DetailsComeBackAsTheyWentIn) {
  const absl::Status status =
      ErrorWithDetails(absl::StatusCode::kNotFound, "not there", EveryDetail());

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(DetailsOf(status), EveryDetail());
  EXPECT_EQ(DetailsOf(absl::InternalError("plain")), ErrorDetails{});
}

TEST(StatusTest, ContextKeepsCodeAndDetails) {
  const absl::Status status =
      WithContext(ErrorWithDetails(absl::StatusCode::kNotFound, "not there", EveryDetail()), "x");

  EXPECT_EQ(status.message(), "x: not there");
  EXPECT_EQ(DetailsOf(status), EveryDetail());
  EXPECT_THAT(WithContext(absl::OkStatus(), "x"), IsOk());
}

TEST(StatusTest, StoredStatusIsTheSame) {
  const absl::Status status =
      ErrorWithDetails(absl::StatusCode::kDataLoss, "bad \xff byte", EveryDetail());

  const absl::Status read = StatusFromJson(StatusToJson(status));

  EXPECT_THAT(read, StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_EQ(DetailsOf(read), EveryDetail());
  EXPECT_THAT(StatusFromJson(StatusToJson(absl::OkStatus())), IsOk());
}

TEST(StatusTest, TextThatIsNoStatusIsAnError) {
  for (const char* text : {"", "{", "[]", "{\"code\":\"x\"}", "null"}) {
    EXPECT_THAT(StatusFromJson(text), StatusIs(absl::StatusCode::kInternal)) << text;
  }
}

absl::StatusOr<int> Twice(absl::StatusOr<int> in) {
  ASSIGN_OR_RETURN(const int value, in);
  return 2 * value;
}

TEST(StatusTest, AssignOrReturnHandsTheErrorOn) {
  EXPECT_EQ(*Twice(21), 42);
  EXPECT_THAT(Twice(absl::AbortedError("no")), StatusIs(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace modeld
