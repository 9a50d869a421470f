#include "server/download/body_request.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/curl/url.h"
#include "server/download/retry.h"

namespace modeld {
namespace {

// An error page is read to its end, so that the connection can be used again, but not for ever.
constexpr int64_t kErrorBodyMax = 64 << 10;

struct ContentRange {
  int64_t begin = -1;  // -1: the "*" of a 416
  int64_t total = -1;  // -1: "*"
};

std::optional<int64_t> Number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// "bytes 5-9/10", "bytes 5-9/*", "bytes */10".
std::optional<ContentRange> ParseContentRange(std::string_view header) {
  constexpr std::string_view kUnit = "bytes ";
  const size_t slash = header.find('/');
  if (!header.starts_with(kUnit) || slash == std::string_view::npos) return std::nullopt;
  ContentRange out;
  const std::string_view range = header.substr(kUnit.size(), slash - kUnit.size());
  if (range != "*") {
    const auto begin = Number(range.substr(0, range.find('-')));
    if (!begin || range.find('-') == std::string_view::npos) return std::nullopt;
    out.begin = *begin;
  }
  if (header.substr(slash + 1) != "*") {
    const auto total = Number(header.substr(slash + 1));
    if (!total) return std::nullopt;
    out.total = *total;
  }
  return out;
}

using Take = std::function<absl::Status(std::span<const char>)>;
using SteadyClock = std::chrono::steady_clock;

// Fewer bytes per second than this, for as long as a stall may last, are one.
constexpr double kStallRate = 1024;

// Reads one answer. On one worker's stack.
class Answer {
 public:
  Answer(const BodyRequest& request, const Take& take) : request_(request), take_(take) {}

  // Decides whether the body is ours. An error here only ends the transfer; Result() has the
  // reason.
  absl::Status OnHeaders(const HttpResponse& response);
  absl::Status OnBody(std::span<const char> data);
  // What it all came to, `sent` being the status of the exchange.
  BodyResult Result(const absl::Status& sent);

 private:
  absl::Status TakePartial(const HttpResponse& response);
  absl::Status TakeWhole(const HttpResponse& response);
  // Keeps the verdict; what is still to come is read over.
  void Decide(BodyVerdict verdict, std::string_view reason, const std::string& message);
  absl::Status Nonsense(std::string_view reason, const std::string& message);
  int64_t left() const { return request_.range.end - request_.range.begin - result_.taken_bytes; }
  bool CountPace(int64_t bytes);

  const BodyRequest& request_;
  const Take& take_;
  BodyResult result_;
  bool ours_ = false;
  bool decided_ = false;
  int64_t skip_ = 0;       // bytes of the body that nobody asked for
  int64_t read_over_ = 0;  // bytes of an error page
  SteadyClock::time_point waiting_since_ = SteadyClock::now();
  SteadyClock::duration waited_{0};  // for the bytes below
  int64_t waited_bytes_ = 0;
};

void Answer::Decide(BodyVerdict verdict, std::string_view reason, const std::string& message) {
  decided_ = true;
  result_.verdict = verdict;
  result_.reason = reason;
  result_.status = absl::UnavailableError(absl::StrCat(UrlForLog(request_.url), " ", message));
}

// The connection is of no more use: who knows what follows.
absl::Status Answer::Nonsense(std::string_view reason, const std::string& message) {
  Decide(BodyVerdict::kTryAgain, reason, message);
  return absl::AbortedError("the body is not wanted");
}

absl::Status Answer::OnHeaders(const HttpResponse& response) {
  const int status = response.status;
  result_.retry_after = RetryAfterOf(response);
  if (request_.on_headers) request_.on_headers(response);
  if (status == 206) return TakePartial(response);
  if (status == 200) return TakeWhole(response);
  const std::string answered = absl::StrCat("answered ", status);
  if (status >= 300 && status < 400 && response.Header("Location")) {
    result_.location = *response.Header("Location");
    Decide(BodyVerdict::kRedirect, "redirect", answered);
  } else if (status == 408 || status == 429 || status >= 500) {
    Decide(BodyVerdict::kTryAgain, absl::StrCat("status_", status), answered);
  } else {
    // Also 416: either the place is not what the hub listed, or a later try must do without a
    // range.
    Decide(BodyVerdict::kGone, absl::StrCat("status_", status), answered);
  }
  return absl::OkStatus();
}

absl::Status Answer::TakePartial(const HttpResponse& response) {
  const auto header = response.Header("Content-Range");
  const auto range = header ? ParseContentRange(*header) : std::nullopt;
  if (!range || range->begin != request_.range.begin) {
    return Nonsense("bad_range", absl::StrCat("answered 206 for other bytes than those from ",
                                              request_.range.begin, " on"));
  }
  if (range->total >= 0 && range->total != request_.size_bytes) {
    return Nonsense("bad_range", absl::StrCat("has ", range->total, " bytes where the hub lists ",
                                              request_.size_bytes));
  }
  ours_ = true;
  return absl::OkStatus();
}

absl::Status Answer::TakeWhole(const HttpResponse& response) {
  const auto length = response.ContentLength();
  if (length && *length > request_.size_bytes) {
    return Nonsense("bad_range", absl::StrCat("has ", *length, " bytes where the hub lists ",
                                              request_.size_bytes));
  }
  const bool whole = request_.range == ByteRange{0, request_.size_bytes};
  if (!whole && !request_.without_range) {
    return Nonsense("range_ignored", "answered 200 to a range");
  }
  skip_ = request_.range.begin;
  ours_ = true;
  return absl::OkStatus();
}

// False when almost nothing comes. The time that the taker needs does not count.
bool Answer::CountPace(int64_t bytes) {
  waited_ += SteadyClock::now() - waiting_since_;
  waited_bytes_ += bytes;
  if (waited_ < request_.stall_timeout) return true;
  const bool enough = static_cast<double>(waited_bytes_) >=
                      kStallRate * std::chrono::duration<double>(waited_).count();
  waited_ = SteadyClock::duration(0);
  waited_bytes_ = 0;
  return enough;
}

absl::Status Answer::OnBody(std::span<const char> data) {
  const auto n = static_cast<int64_t>(data.size());
  if (!ours_ || decided_) {
    read_over_ += n;
    return read_over_ <= kErrorBodyMax ? absl::OkStatus() : absl::AbortedError("a long error page");
  }
  if (!CountPace(n)) return Nonsense("slow", "sends almost nothing");
  const int64_t over = std::min(skip_, n);
  skip_ -= over;
  result_.skipped_bytes += over;
  data = data.subspan(static_cast<size_t>(over));
  if (static_cast<int64_t>(data.size()) > left()) {
    return Nonsense("bad_range",
                    absl::StrCat("sends more than the bytes up to ", request_.range.end));
  }
  result_.taken_bytes += static_cast<int64_t>(data.size());
  const absl::Status taken = take_(data);
  waiting_since_ = SteadyClock::now();
  return taken;
}

BodyResult Answer::Result(const absl::Status& sent) {
  if (decided_) return std::move(result_);
  if (sent.ok()) {
    if (left() == 0) {
      result_.verdict = BodyVerdict::kWhole;
    } else {
      Decide(BodyVerdict::kTryAgain, "short", absl::StrCat("ended ", left(), " bytes early"));
    }
    return std::move(result_);
  }
  const HttpFailure failure = HttpFailureOf(sent);
  result_.status = sent;
  result_.verdict = BodyVerdict::kFailed;
  if (failure != HttpFailure::kNone && failure != HttpFailure::kInvalidUrl) {
    result_.verdict = BodyVerdict::kTryAgain;
    result_.reason = HttpFailureName(failure);
  }
  return std::move(result_);
}

}  // namespace

BodyResult FetchBody(HttpClient& http, const BodyRequest& request, const Take& take,
                     std::stop_token stop) {
  HttpRequest get;
  get.url = request.url;
  get.bearer_token = request.bearer_token;
  get.connect_timeout = request.connect_timeout;
  get.stall_timeout = request.stall_timeout;
  const bool whole = request.range == ByteRange{0, request.size_bytes};
  if (!whole && !request.without_range) {
    get.headers.emplace_back(
        "Range", absl::StrCat("bytes=", request.range.begin, "-", request.range.end - 1));
  }
  Answer answer(request, take);
  const absl::StatusOr<HttpResponse> sent = http.Send(
      get, [&](const HttpResponse& response) { return answer.OnHeaders(response); },
      [&](std::span<const char> data) { return answer.OnBody(data); }, std::move(stop));
  return answer.Result(sent.status());
}

}  // namespace modeld
