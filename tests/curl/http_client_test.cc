#include "server/curl/http_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "tests/support/fake_hub.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;

// One repository with a small file and an LFS file of 3 MB.
class HttpClientTest : public testing::Test {
 protected:
  HttpClientTest() : big_(TestBytes(3'000'000, 1)) {
    hub_.AddFile("acme/tiny", "small.txt", "hello");
    hub_.AddFile("acme/tiny", "big.safetensors", big_);
  }

  std::string Small() const { return hub_.url() + "/acme/tiny/resolve/main/small.txt"; }
  // A fresh signed URL of the LFS file.
  std::string Big() {
    const auto response = Send({.method = HttpMethod::kHead,
                                .url = hub_.url() + "/acme/tiny/resolve/main/big.safetensors"});
    EXPECT_THAT(response, IsOk());
    return std::string(response->Header("location").value_or(""));
  }
  absl::StatusOr<HttpResponse> Send(const HttpRequest& request, std::stop_token stop = {}) {
    body_.clear();
    return client_.Send(
        request, {},
        [this](std::span<const char> piece) {
          body_.append(piece.data(), piece.size());
          return absl::OkStatus();
        },
        stop);
  }

  FakeHub hub_;
  HttpClient client_;
  const std::string big_;
  std::string body_;
};

TEST_F(HttpClientTest, GetGivesStatusHeadersAndBody) {
  const auto response = Send({.url = Small()});

  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(body_, "hello");
  EXPECT_EQ(response->body_bytes, 5);
  EXPECT_EQ(response->ContentLength(), 5);
  EXPECT_THAT(response->Header("x-REPO-commit"), Optional(testing::SizeIs(40)));
  EXPECT_EQ(response->Header("nothing"), std::nullopt);
}

TEST_F(HttpClientTest, HeadersComeOnceAndBeforeTheBody) {
  int calls = 0;
  bool body_first = false;

  const auto response = client_.Send(
      {.url = Small()},
      [&](const HttpResponse& head) {
        ++calls;
        EXPECT_EQ(head.status, 200);
        return absl::OkStatus();
      },
      [&](std::span<const char>) {
        body_first = body_first || calls == 0;
        return absl::OkStatus();
      },
      {});

  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(body_first);
}

TEST_F(HttpClientTest, RepeatedHeadersAreAllThere) {
  hub_.AddFault(R"({"kind":"headers","headers":{"X-HF-Warning":"a; b","x-hf-warning":"c; d"}})");

  const auto response = Send({.url = Small()});

  ASSERT_THAT(response, IsOk());
  EXPECT_THAT(response->HeadersOf("X-Hf-Warning"), testing::ElementsAre("a; b", "c; d"));
}

TEST_F(HttpClientTest, RedirectIsAnAnswerAndNotFollowed) {
  const auto response =
      Send({.url = hub_.url() + "/acme/tiny/resolve/main/big.safetensors", .bearer_token = "t"});

  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->status, 302);
  EXPECT_EQ(hub_.Requests().size(), 1);
}

TEST_F(HttpClientTest, TokenGoesWithItsOwnRequestOnly) {
  ASSERT_THAT(Send({.url = Small(), .bearer_token = "t"}), IsOk());
  ASSERT_THAT(Send({.url = Small()}), IsOk());

  const auto requests = hub_.Requests();
  ASSERT_EQ(requests.size(), 2);
  EXPECT_TRUE(requests[0].had_token);
  EXPECT_FALSE(requests[1].had_token);
}

TEST_F(HttpClientTest, RangeIsFetched) {
  const auto response = Send({.url = Big(), .headers = {{"Range", "bytes=1000-1999"}}});

  ASSERT_THAT(response, IsOk());
  EXPECT_EQ(response->status, 206);
  EXPECT_EQ(response->Header("Content-Range"), "bytes 1000-1999/3000000");
  EXPECT_EQ(body_, big_.substr(1000, 1000));
}

TEST_F(HttpClientTest, ErrorOfTheHeadersCallbackEndsTheTransferAndIsKept) {
  bool body = false;

  const auto response = client_.Send(
      {.url = Big()},
      [](const HttpResponse&) { return Error(Reason::kDigestMismatch, "not this one"); },
      [&body](std::span<const char>) {
        body = true;
        return absl::OkStatus();
      },
      {});

  EXPECT_THAT(response, HasReasonOf(Reason::kDigestMismatch));
  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kNone);
  EXPECT_FALSE(body);
}

TEST_F(HttpClientTest, ErrorOfTheBodyCallbackEndsTheTransferAndTheClientGoesOn) {
  const auto response = client_.Send(
      {.url = Big()}, {}, [](std::span<const char>) { return absl::DataLossError("enough"); }, {});

  EXPECT_THAT(response, StatusIs(absl::StatusCode::kDataLoss));
  EXPECT_THAT(Send({.url = Small()}), IsOk());
  EXPECT_EQ(body_, "hello");
}

TEST_F(HttpClientTest, CutBodyIsACut) {
  hub_.AddFault(R"({"kind":"cut","on":"cdn","bytes":100000})");

  const auto response = Send({.url = Big()});

  EXPECT_THAT(response, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kCut);
  EXPECT_LE(body_.size(), 100000);
}

TEST_F(HttpClientTest, StallEndsAfterItsTime) {
  hub_.AddFault(R"({"kind":"stall","on":"cdn","bytes":50000})");
  const std::string url = Big();

  const auto response = Send({.url = url, .stall_timeout = milliseconds(200)});

  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kStalled);
  EXPECT_THAT(std::string(response.status().message()), HasSubstr("0.2 s"));
}

TEST_F(HttpClientTest, SilenceBeforeTheFirstByteIsAStallToo) {
  hub_.AddFault(R"({"kind":"stall","bytes":-1})");

  const auto response = Send({.url = Small(), .stall_timeout = milliseconds(200)});

  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kStalled);
}

TEST_F(HttpClientTest, DeadlineCountsTheWholeRequest) {
  const std::string url = Big();
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":100000})");

  const auto response = Send({.url = url, .deadline = milliseconds(300)});

  EXPECT_THAT(response, StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kDeadline);
}

TEST_F(HttpClientTest, StopEndsASilentTransferAtOnce) {
  hub_.AddFault(R"({"kind":"stall","on":"cdn","bytes":50000})");
  const std::string url = Big();
  std::stop_source source;
  int64_t seen = 0;
  std::chrono::steady_clock::time_point asked;

  const auto response = client_.Send(
      {.url = url}, {},
      [&](std::span<const char> piece) {
        seen += static_cast<int64_t>(piece.size());
        if (seen == 50000) {
          asked = std::chrono::steady_clock::now();
          source.request_stop();
        }
        return absl::OkStatus();
      },
      source.get_token());

  EXPECT_THAT(response, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_LT(std::chrono::steady_clock::now() - asked, seconds(5));
}

TEST_F(HttpClientTest, StopFromAnotherThreadWakesTheTransfer) {
  hub_.AddFault(R"({"kind":"stall","bytes":-1})");
  std::stop_source source;
  std::atomic<bool> ended = false;
  absl::Status result;
  std::jthread worker([&] {
    result = Send({.url = Small(), .stall_timeout = seconds(60)}, source.get_token()).status();
    ended = true;
  });

  source.request_stop();
  worker.join();

  EXPECT_TRUE(ended);
  EXPECT_THAT(result, StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(HttpClientTest, NobodyListeningIsAConnectFailure) {
  const auto response = Send({.url = "http://127.0.0.1:1/x?secret=1"});

  EXPECT_THAT(response, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kConnect);
  EXPECT_THAT(std::string(response.status().message()), Not(HasSubstr("secret")));
}

TEST_F(HttpClientTest, OtherSchemesAreRefused) {
  const auto response = Send({.url = "file:///etc/passwd"});

  EXPECT_EQ(HttpFailureOf(response.status()), HttpFailure::kInvalidUrl);
}

TEST_F(HttpClientTest, LineBreakInAHeaderIsRefused) {
  EXPECT_THAT(Send({.url = Small(), .headers = {{"X", "a\r\nHost: evil"}}}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Send({.url = Small(), .bearer_token = "a\nb"}),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_EQ(hub_.Requests().size(), 0);
}

TEST_F(HttpClientTest, FailureOutlivesAddedContext) {
  const auto response = Send({.url = "http://127.0.0.1:1/"});

  EXPECT_EQ(HttpFailureOf(WithContext(response.status(), "listing")), HttpFailure::kConnect);
}

}  // namespace
}  // namespace modeld
