// Every way in which a body can go wrong, in one table against the fake hub.
#include <gtest/gtest.h>

#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "tests/download/download_fixture.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

struct FaultCase {
  const char* name;
  std::vector<const char*> faults;
  std::optional<Reason> ends_with;     // nothing: it must complete
  const char* retry_reason = nullptr;  // label that must have been counted
  double wire_max = 1.02;              // body bytes received, of those in the repository
};

// GoogleTest prints a parameter by its bytes otherwise.
std::ostream& operator<<(std::ostream& out, const FaultCase& fault) { return out << fault.name; }

class DownloadFaultTest : public DownloadTest, public testing::WithParamInterface<FaultCase> {};

TEST_P(DownloadFaultTest, EndsAsItShould) {
  const FaultCase& fault = GetParam();
  AddModel();
  Downloader downloader(hub_);
  const RepoListing listing = downloader.List();
  for (const char* command : fault.faults) hub_.AddFault(command);

  SnapshotRequest request = {.model_name = "m",
                             .cache_name = "primary",
                             .cache_path = cache_,
                             .repo_id = std::string(kRepo),
                             .revision = "main",
                             .listing = listing};
  const auto result = DownloadSnapshot(request, downloader.pool, {}, {}, {});

  if (fault.retry_reason != nullptr) {
    const std::string label = std::string("{reason=\"") + fault.retry_reason + "\"}";
    EXPECT_GE(downloader.Metric("modeld_download_retries_total" + label), 1)
        << downloader.metrics.Scrape();
  }
  if (fault.ends_with) {
    EXPECT_THAT(result, HasReasonOf(*fault.ends_with));
    EXPECT_THAT(repo_.ReadRef("main"), StatusIs(absl::StatusCode::kNotFound));
    // What came whole stays, and once the fault is over the rest follows.
    hub_.ClearFaults();
    EXPECT_THAT(downloader.Download(cache_), IsOk());
  } else {
    ASSERT_THAT(result, IsOk());
    // As received: what a hub sent into a connection that it then reset has not all arrived.
    EXPECT_LE(static_cast<double>(result->fetched_bytes),
              fault.wire_max * static_cast<double>(TotalBytes(listing.files)));
  }
  ExpectComplete(listing);
}

constexpr auto kOk = std::nullopt;

INSTANTIATE_TEST_SUITE_P(
    Connection, DownloadFaultTest,
    testing::Values(
        FaultCase{"CutAgainAndAgain", {R"({"kind":"cut","on":"cdn","bytes":700000})"}, kOk, "cut"},
        FaultCase{"CutAfterFewBytes", {R"({"kind":"cut","bytes":100,"times":3})"}, kOk, "cut"},
        FaultCase{"CutBeforeTheHeaders",
                  {R"({"kind":"cut","on":"cdn","bytes":-1,"times":2})"},
                  kOk,
                  "cut"},
        FaultCase{"StallInTheBody",
                  {R"({"kind":"stall","on":"cdn","bytes":1500000,"times":2})"},
                  kOk,
                  "stalled"},
        FaultCase{"StallBeforeTheHeaders",
                  {R"({"kind":"stall","on":"cdn","bytes":-1,"times":1})"},
                  kOk,
                  "stalled"},
        FaultCase{"CutForEver",
                  {R"({"kind":"cut","on":"cdn","bytes":-1})"},
                  Reason::kHubUnavailable,
                  "cut"}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Status, DownloadFaultTest,
    testing::Values(
        FaultCase{"Unavailable",
                  {R"({"kind":"status","on":"cdn","status":503,"times":3})"},
                  kOk,
                  "status_503"},
        FaultCase{"InternalError",
                  {R"({"kind":"status","on":"cdn","status":500,"times":1})"},
                  kOk,
                  "status_500"},
        FaultCase{"Timeout",
                  {R"({"kind":"status","on":"cdn","status":408,"times":1})"},
                  kOk,
                  "status_408"},
        FaultCase{"TooManyRequests",
                  {R"({"kind":"status","on":"cdn","status":429,"times":1,
                       "headers":{"Retry-After":"1"}})"},
                  kOk,
                  "status_429"},
        FaultCase{"UnavailableForEver",
                  {R"({"kind":"status","on":"cdn","status":503})"},
                  Reason::kHubUnavailable,
                  "status_503"},
        FaultCase{"ExpiredOnce",
                  {R"({"kind":"status","on":"cdn","status":403,"times":1})"},
                  kOk,
                  "status_403"},
        FaultCase{"ExpiredInTheMiddle",
                  {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
                   R"({"kind":"status","on":"cdn","status":403,"after":1,"times":1})"},
                  kOk,
                  "status_403"},
        FaultCase{"RefusedForEver",
                  {R"({"kind":"status","on":"cdn","status":403})"},
                  Reason::kHubAccessDenied,
                  "status_403"},
        FaultCase{"SmallFileGone",
                  {R"({"kind":"status","on":"resolve","path":"*config.json","status":404,
                       "headers":{"X-Error-Code":"EntryNotFound"}})"},
                  Reason::kHubEntryNotFound},
        FaultCase{"SmallFileGated",
                  {R"({"kind":"status","on":"resolve","path":"*config.json","status":403,
                       "headers":{"X-Error-Code":"GatedRepo"}})"},
                  Reason::kHubAccessDenied},
        FaultCase{"RedirectedForEver",
                  {R"({"kind":"redirect","on":"resolve","path":"*config.json","location":"{self}",
                       "method":"GET"})"},
                  Reason::kHubUnavailable}),
    [](const auto& info) { return info.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Body, DownloadFaultTest,
    testing::Values(
        FaultCase{"Truncated",
                  {R"({"kind":"truncate","on":"cdn","bytes":1000000,"times":2})"},
                  kOk,
                  "short"},
        FaultCase{"RangeIgnored",
                  {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
                   R"({"kind":"ignore_range","on":"cdn"})"},
                  kOk,
                  "cut",
                  1.5},
        FaultCase{"OtherRangeOnce",
                  {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
                   R"({"kind":"wrong_range","on":"cdn","shift":7,"after":1,"times":1})"},
                  kOk,
                  "bad_range",
                  1.6},
        // A server whose ranges are never right is asked for the whole file.
        FaultCase{"OtherRangeAlways",
                  {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
                   R"({"kind":"wrong_range","on":"cdn","shift":7})"},
                  kOk,
                  "bad_range",
                  4},
        FaultCase{"RangeNotSatisfiable",
                  {R"({"kind":"cut","on":"cdn","bytes":1500000,"times":1})",
                   R"({"kind":"status","on":"cdn","status":416,"after":1,"times":1})"},
                  kOk,
                  "status_416",
                  1.5},
        FaultCase{"CorruptOnce",
                  {R"({"kind":"corrupt","on":"cdn","offset":1234567,"times":1})"},
                  kOk,
                  "digest",
                  2.02},
        FaultCase{
            "SmallFileCorruptOnce",
            {R"({"kind":"corrupt","on":"resolve","path":"*config.json","offset":5,"times":1})"},
            kOk,
            "digest"},
        FaultCase{"CorruptAlways",
                  {R"({"kind":"corrupt","on":"cdn","offset":1234567})"},
                  Reason::kDigestMismatch,
                  "digest"},
        FaultCase{"OtherFileLocated",
                  {R"({"kind":"headers","on":"resolve","path":"*model.safetensors",
                       "headers":{"X-Linked-Size":"17"}})"},
                  Reason::kInvalidRepository}),
    [](const auto& info) { return info.param.name; });

// Workers that all run into a limit wait once, together.
TEST_F(DownloadTest, ALimitOfTheHostIsWaitedForOnceByAll) {
  for (int i = 0; i < 6; ++i) {
    hub_.AddFile(kRepo, "shard-" + std::to_string(i) + ".safetensors", TestBytes(50'000, i));
  }
  Downloader downloader(hub_);
  const SnapshotRequest request = downloader.Request(cache_);
  hub_.AddFault(R"({"kind":"status","on":"cdn","status":429,"times":3,
                    "headers":{"Retry-After":"1"}})");

  const auto begin = Clock::Real().Steady();
  ASSERT_THAT(DownloadSnapshot(request, downloader.pool, {}, {}, {}), IsOk());
  const auto took = Clock::Real().Steady() - begin;

  EXPECT_GE(took, std::chrono::milliseconds(1000));
  EXPECT_LT(took, std::chrono::milliseconds(2900));
}

}  // namespace
}  // namespace modeld
