#include "server/hub/hub_error.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/curl/url.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kRetryAfter{10'000};  // when the server did not say
constexpr seconds kWaitMax{3600};

std::string Subject(const HubSubject& subject) {
  std::string text = "repository " + subject.repo;
  if (!subject.path.empty()) text = "file " + subject.path + " of " + text;
  if (!subject.revision.empty()) text += " at revision " + subject.revision;
  return text;
}

// Text of the server for a message: short and printable.
std::string ServerText(std::string_view text) {
  std::string out(text.substr(0, 200));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

HubFailure Refused(Reason reason, const std::string& message, const HubSubject& subject,
                   const MissingResource& missing) {
  return {.status = ErrorWithDetails(ReasonCode(reason), message,
                                     {.reason = std::string(ReasonName(reason)),
                                      .metadata = {{"repository", subject.repo}},
                                      .resource = missing})};
}

HubFailure Denied(const std::string& why, const HubSubject& subject) {
  return {.status = Error(Reason::kHubAccessDenied,
                          UrlForLog(subject.endpoint) + " denies " + Subject(subject) + ": " + why,
                          {{"repository", subject.repo}})};
}

bool IsRetryable(int status) { return status == 408 || status == 429 || status >= 500; }

HubFailure Unhealthy(const HttpResponse& response, const std::string& who,
                     const HubSubject& subject) {
  const auto wait = AskedWait(response);
  return {.status = Unavailable(
              Reason::kHubUnavailable,
              who + " answered " + std::to_string(response.status) + " for " + Subject(subject),
              wait.value_or(kRetryAfter)),
          .retry = IsRetryable(response.status),
          .wait = wait,
          .reason = "status_" + std::to_string(response.status)};
}

// The number after `name=` in a header such as `"resolvers";r=0;t=12`.
std::optional<int64_t> Parameter(std::string_view header, std::string_view name) {
  size_t at = 0;
  while ((at = header.find(name, at)) != std::string_view::npos) {
    const size_t value = at + name.size();
    const bool begins = at > 0 && (header[at - 1] == ';' || header[at - 1] == ' ');
    if (begins && value < header.size() && header[value] == '=') {
      int64_t number = 0;
      const auto [end, error] =
          std::from_chars(header.data() + value + 1, header.data() + header.size(), number);
      if (error == std::errc()) return number;
    }
    at = value;
  }
  return std::nullopt;
}

}  // namespace

std::optional<milliseconds> AskedWait(const HttpResponse& response) {
  std::optional<int64_t> wait_s;
  if (const auto limit = response.Header("RateLimit")) {
    if (Parameter(*limit, "r") == 0) wait_s = Parameter(*limit, "t");
  }
  if (const auto after = response.Header("Retry-After"); after && !wait_s) {
    int64_t number = 0;
    const auto [end, error] = std::from_chars(after->data(), after->data() + after->size(), number);
    if (error == std::errc() && end == after->data() + after->size()) wait_s = number;
  }
  if (!wait_s || *wait_s < 0) return std::nullopt;
  return std::min<milliseconds>(seconds(std::min(*wait_s, kWaitMax.count())) + seconds(1),
                                kWaitMax);
}

std::optional<RequestQuota> ParseQuota(const HttpResponse& response) {
  std::string_view rest = response.Header("RateLimit").value_or("");
  std::optional<RequestQuota> fewest;
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(item.size() + 1, rest.size()));
    const auto left = Parameter(item, "r");
    const auto reset = Parameter(item, "t");
    if (!left || !reset || *left < 0 || *reset < 0) continue;
    if (fewest && fewest->left <= *left) continue;
    fewest = RequestQuota{.left = *left, .reset = std::min(seconds(*reset), kWaitMax)};
  }
  if (!fewest) return std::nullopt;
  const std::string_view policy = response.Header("RateLimit-Policy").value_or("");
  fewest->quota = std::max<int64_t>(Parameter(policy, "q").value_or(0), 0);
  fewest->window =
      std::min(seconds(std::max<int64_t>(Parameter(policy, "w").value_or(0), 0)), kWaitMax);
  return fewest;
}

HubFailure HubRefusal(const HttpResponse& response, const HubSubject& subject) {
  const std::string_view code = response.Header("X-Error-Code").value_or("");
  const std::string_view message = response.Header("X-Error-Message").value_or("");
  const bool bad_token = message == "Invalid credentials in Authorization header";
  const std::string at = " at " + UrlForLog(subject.endpoint);
  const std::string with_token =
      subject.token_credential.empty()
          ? "this token"
          : "the token of credential \"" + subject.token_credential + "\"";

  if (code == "RevisionNotFound") {
    return Refused(Reason::kHubRevisionNotFound,
                   "repository " + subject.repo + " has no revision " + subject.revision + at,
                   subject, {"revision", subject.revision});
  }
  if (code == "EntryNotFound") {
    return Refused(Reason::kHubEntryNotFound, "there is no " + Subject(subject) + at, subject,
                   {"file", subject.path});
  }
  if (code == "GatedRepo") {
    return Denied(
        "it is gated; ask for access on its page, and give modeld a token of that account. " +
            ServerText(message),
        subject);
  }
  if (message == "Access to this resource is disabled.") return Denied("it is disabled", subject);
  if (code == "RepoNotFound" || (response.status == 401 && !bad_token)) {
    return Refused(Reason::kHubRepoNotFound,
                   "there is no repository " + subject.repo + at +
                       ", or it is private and not visible with " + with_token,
                   subject, {"repository", subject.repo});
  }
  if (response.status == 401) return Denied("the hub rejects " + with_token, subject);
  if (response.status == 403) return Denied("forbidden. " + ServerText(message), subject);
  return Unhealthy(response, UrlForLog(subject.endpoint), subject);
}

HubFailure StorageRefusal(const HttpResponse& response, const HubSubject& subject) {
  HubFailure failure = Unhealthy(response, "the storage host", subject);
  if (response.status == 401 || response.status == 403) failure.retry = true;
  return failure;
}

HubFailure TransferFailure(const absl::Status& status, const HubSubject& subject) {
  const HttpFailure kind = HttpFailureOf(status);
  if (kind == HttpFailure::kNone) return {.status = status};
  // A certificate does not get better by asking again, nor does a URL, nor has time passed back.
  const bool retry = kind != HttpFailure::kInvalidUrl && kind != HttpFailure::kDeadline &&
                     kind != HttpFailure::kTls;
  return {
      .status = Unavailable(Reason::kHubUnavailable,
                            Subject(subject) + ": " + std::string(status.message()), kRetryAfter),
      .retry = retry,
      .unreachable = kind == HttpFailure::kResolve || kind == HttpFailure::kConnect ||
                     kind == HttpFailure::kTls,
      .reason = std::string(HttpFailureName(kind))};
}

HubFailure NonsenseAnswer(std::string_view what, const HubSubject& subject, bool retry) {
  return {.status = Unavailable(
              Reason::kHubUnavailable,
              UrlForLog(subject.endpoint) + " " + std::string(what) + " for " + Subject(subject),
              kRetryAfter),
          .retry = retry,
          .reason = "nonsense"};
}

}  // namespace modeld
