// Every way in which the hub and its storage can go wrong, each with its end; and each with kill -9
// in the middle and a second start under the same fault.
#include "tests/download/fault_matrix.h"

#include <gtest/gtest.h>

#include <optional>
#include <ostream>
#include <string>
#include <tuple>
#include <vector>

#include "server/core/reason.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

struct Row {
  const char* name;
  std::vector<const char*> faults;
  std::optional<Reason> ends_with = {};  // nothing: it must complete
  double wire_max = 1.02;                // body bytes received, of those in the repository
};

// GoogleTest prints a parameter by its bytes otherwise.
std::ostream& operator<<(std::ostream& out, const Row& row) { return out << row.name; }

class FaultMatrixTest : public FaultMatrixFixture,
                        public testing::WithParamInterface<std::tuple<Row, bool>> {};

TEST_P(FaultMatrixTest, EndsAsItShould) {
  const auto& [row, killed] = GetParam();
  Use(std::string(row.name) + (killed ? "Killed" : ""), FaultMatrix::kModel);
  if (killed) {
    for (const char* fault : row.faults) hub().AddFault(fault);
    StartToTheMiddle()->Kill();
    ExpectNoWrongByte();
    hub().ClearFaults();
  }
  for (const char* fault : row.faults) hub().AddFault(fault);

  const Outcome outcome = Download();

  ExpectNoWrongByte();
  if (row.ends_with) {
    EXPECT_EQ(outcome.reason, ReasonName(*row.ends_with)) << outcome.message;
    EXPECT_THAT(repo().ReadRef(revision_), StatusIs(absl::StatusCode::kNotFound));
    // What came whole stays, and once the fault is over the rest follows.
    hub().ClearFaults();
    const Outcome later = Download();
    EXPECT_TRUE(later.ok) << later.message;
  } else {
    ASSERT_TRUE(outcome.ok) << outcome.message;
    EXPECT_LE(static_cast<double>(outcome.fetched_bytes), row.wire_max * FaultMatrix::kModelBytes);
  }
  hub().ClearFaults();
  ExpectComplete();
}

std::string NameOf(const testing::TestParamInfo<std::tuple<Row, bool>>& info) {
  const auto& [row, killed] = info.param;
  return std::string(row.name) + (killed ? "Killed" : "");
}

constexpr auto kOk = std::nullopt;

const std::vector<Row> kConnectionRows = {
    {"NoFault", {}},
    {"ResetAgainAndAgain", {R"({"kind":"cut","on":"cdn","bytes":700000})"}},
    {"EndedAgainAndAgain", {R"({"kind":"cut","on":"cdn","bytes":700000,"fin":true})"}},
    {"ResetAfterFewBytes", {R"({"kind":"cut","bytes":100,"times":3})"}},
    {"ResetBeforeTheHeaders", {R"({"kind":"cut","bytes":-1,"times":2})"}},
    {"ResetForEver", {R"({"kind":"cut","on":"cdn","bytes":-1})"}, Reason::kHubUnavailable},
    {"StallInTheBody", {R"({"kind":"stall","on":"cdn","bytes":1500000,"times":2})"}},
    {"StallBeforeTheHeaders", {R"({"kind":"stall","on":"cdn","bytes":-1,"times":1})"}},
    {"DripOfOneByte", {R"({"kind":"drip","on":"cdn","bytes_per_s":1,"times":2})"}},
    {"ListingCut", {R"({"kind":"cut","on":"api","bytes":-1,"times":1})"}},
};
INSTANTIATE_TEST_SUITE_P(Connection, FaultMatrixTest,
                         testing::Combine(testing::ValuesIn(kConnectionRows), testing::Bool()),
                         NameOf);

// Answers without the body.
const std::vector<Row> kAnswerRows = {
    {"RequestTimeout", {R"({"kind":"status","on":"cdn","status":408,"times":2})"}},
    {"TooManyRequests", {R"({"kind":"status","on":"cdn","status":429,"times":2})"}},
    {"TooManyRequestsWithRetryAfter",
     {R"({"kind":"status","on":"cdn","status":429,"times":1,"headers":{"Retry-After":"1"}})"}},
    {"TooManyRequestsOfTheHub", {R"({"kind":"status","on":"resolve","status":429,"times":1,
          "headers":{"RateLimit":"\"resolvers\";r=0;t=1"}})"}},
    {"InternalErrors", {R"({"kind":"status","on":"cdn","status":500,"times":3})"}},
    {"BadGateways", {R"({"kind":"status","on":"cdn","status":502,"times":3})"}},
    {"Unavailable", {R"({"kind":"status","on":"cdn","status":503,"times":3})"}},
    {"GatewayTimeouts", {R"({"kind":"status","on":"cdn","status":504,"times":3})"}},
    {"HubUnavailable", {R"({"kind":"status","on":"resolve","status":503,"times":2})"}},
    {"ListingUnavailable", {R"({"kind":"status","on":"api","status":503,"times":2})"}},
    {"UnavailableForEver",
     {R"({"kind":"status","on":"cdn","status":503})"},
     Reason::kHubUnavailable},
    {"ExpiredOnce", {R"({"kind":"status","on":"cdn","status":403,"times":1})"}},
    {"UnauthorizedOnce", {R"({"kind":"status","on":"cdn","status":401,"times":1})"}},
    {"ExpiredInTheMiddle",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"status","on":"cdn","status":403,"after":1,"times":1})"}},
    {"GoneInTheMiddle",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"status","on":"cdn","status":404,"after":1,"times":1})"}},
    {"RefusedForEver", {R"({"kind":"status","on":"cdn","status":403})"}, Reason::kHubAccessDenied},
    {"SmallFileGone",
     {R"({"kind":"status","on":"resolve","path":"*config.json","status":404,
          "headers":{"X-Error-Code":"EntryNotFound"}})"},
     Reason::kHubEntryNotFound},
    {"SmallFileGated",
     {R"({"kind":"status","on":"resolve","path":"*config.json","status":403,
          "headers":{"X-Error-Code":"GatedRepo"}})"},
     Reason::kHubAccessDenied},
};
INSTANTIATE_TEST_SUITE_P(Answer, FaultMatrixTest,
                         testing::Combine(testing::ValuesIn(kAnswerRows), testing::Bool()), NameOf);

const std::vector<Row> kRedirectRows = {
    {"RedirectLoopOfTheHub",
     {R"({"kind":"redirect","on":"resolve","path":"*config.json","location":"{self}",
          "method":"GET"})"},
     Reason::kHubUnavailable},
    {"RedirectLoopOfTheStorage",
     {R"({"kind":"redirect","on":"cdn","location":"{self}"})"},
     Reason::kHubUnavailable},
    {"RedirectToNobody",
     {R"({"kind":"redirect","on":"cdn","location":"http://127.0.0.1:1/x","times":2})"}},
    {"RedirectToAFile",
     {R"({"kind":"redirect","on":"cdn","location":"file:///etc/passwd"})"},
     Reason::kInvalidRepository},
};
INSTANTIATE_TEST_SUITE_P(Redirect, FaultMatrixTest,
                         testing::Combine(testing::ValuesIn(kRedirectRows), testing::Bool()),
                         NameOf);

const std::vector<Row> kBodyRows = {
    {"TruncatedWithAFittingLength",
     {R"({"kind":"truncate","on":"cdn","bytes":1000000,"times":2})"}},
    {"RangeIgnored",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"ignore_range","on":"cdn"})"},
     kOk,
     1.5},
    {"OtherRangeOnce",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"wrong_range","on":"cdn","shift":7,"after":1,"times":1})"},
     kOk,
     1.6},
    // A server whose ranges are never right is asked for the whole file.
    {"OtherRangeAlways",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"wrong_range","on":"cdn","shift":7})"},
     kOk,
     4},
    {"RangeNotSatisfiable",
     {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
      R"({"kind":"status","on":"cdn","status":416,"after":1,"times":1})"},
     kOk,
     2.02},
    {"CorruptOnce", {R"({"kind":"corrupt","on":"cdn","offset":1234567,"times":1})"}, kOk, 2.02},
    {"SmallFileCorruptOnce",
     {R"({"kind":"corrupt","on":"resolve","path":"*config.json","offset":5,"times":1})"}},
    {"CorruptAlways",
     {R"({"kind":"corrupt","on":"cdn","offset":1234567})"},
     Reason::kDigestMismatch},
};
INSTANTIATE_TEST_SUITE_P(Body, FaultMatrixTest,
                         testing::Combine(testing::ValuesIn(kBodyRows), testing::Bool()), NameOf);

// A hub that lies.
const std::vector<Row> kLieRows = {
    {"HostileEtag",
     {R"({"kind":"headers","on":"resolve","path":"*model.safetensors",
          "headers":{"X-Linked-Etag":"\"../../../../evil\""}})"},
     Reason::kInvalidRepository},
    {"OtherSize",
     {R"({"kind":"headers","on":"resolve","path":"*model.safetensors",
          "headers":{"X-Linked-Size":"17"}})"},
     Reason::kInvalidRepository},
    {"NameAboveTheSnapshot",
     {R"({"kind":"listing","on":"api","entries":[{"type":"file","path":"../../evil","size":0,
          "oid":"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}]})"},
     Reason::kInvalidRepository},
    {"NameFromTheRoot",
     {R"({"kind":"listing","on":"api","entries":[{"type":"file","path":"/tmp/evil","size":0,
          "oid":"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}]})"},
     Reason::kInvalidRepository},
    {"NameWithBackslashes",
     {R"({"kind":"listing","on":"api","entries":[{"type":"file","path":"..\\evil","size":0,
          "oid":"e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"}]})"},
     Reason::kInvalidRepository},
    {"HostileDigest",
     {R"({"kind":"listing","on":"api","entries":[{"type":"file","path":"evil","size":3,
          "oid":"../../../evil"}]})"},
     Reason::kInvalidRepository},
    {"NoListing", {R"({"kind":"body","on":"api","body":"<html>"})"}, Reason::kHubUnavailable},
};
INSTANTIATE_TEST_SUITE_P(Lie, FaultMatrixTest,
                         testing::Combine(testing::ValuesIn(kLieRows), testing::Bool()), NameOf);

}  // namespace
}  // namespace modeld
