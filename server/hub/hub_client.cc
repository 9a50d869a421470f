#include "server/hub/hub_client.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/curl/http_client.h"
#include "server/curl/url.h"
#include "server/hub/hub_error.h"
#include "server/hub/hub_json.h"
#include "server/hub/hub_tokens.h"
#include "server/hub/request_budget.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using SteadyTime = std::chrono::steady_clock::time_point;

constexpr int kHopsMax = 20;                  // as huggingface_hub
constexpr int kPagesMax = 10'000;             // of about 1000 entries each
constexpr size_t kFilesMax = 1'000'000;       // in one commit
constexpr size_t kJsonBytesMax = 64 << 20;    // of one answer
constexpr int64_t kReadBytesMax = 128 << 20;  // of one ReadRange
constexpr milliseconds kBackoffMax{30'000};
constexpr size_t kIdleClientsMax = 16;

// One call of the public interface, at one endpoint.
struct Call {
  HubSubject subject;
  std::string token;  // of the repository; goes to where HubEndpoints lets it
  SteadyTime end;
  bool retry = true;
  bool others = false;  // another endpoint can be asked after this one
  std::stop_token stop;
};

// The last answer of a chain of redirects, and what the ones before it said.
struct Answer {
  std::string url;  // that gave `response`
  HttpResponse response;
  std::string body;
  std::vector<HttpResponse> before;
  std::string foreign_url;  // where the last answer sends us: a host without our trust

  // The header of the last answer that has it.
  std::string Header(std::string_view name) const {
    if (const auto value = response.Header(name)) return std::string(*value);
    for (auto hop = before.rbegin(); hop != before.rend(); ++hop) {
      if (const auto value = hop->Header(name)) return std::string(*value);
    }
    return "";
  }
};

std::string FileUrl(const std::string& endpoint, std::string_view repo, std::string_view revision,
                    std::string_view path) {
  return endpoint + "/" + std::string(repo) + "/resolve/" + PercentEncode(revision) + "/" +
         PercentEncode(path, "/");
}

bool IsRedirect(int status) { return status >= 300 && status < 400 && status != 304; }

std::optional<int64_t> ParseNumber(std::string_view text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0) return std::nullopt;
  return number;
}

HubFailure Invalid(const std::string& what) {
  return {.status = Error(Reason::kInvalidRepository, what)};
}

// The commit of an answer must be one, and the one that was asked for.
HubFailure CheckCommit(const std::string& commit, const HubSubject& subject) {
  if (commit.empty()) {
    return NonsenseAnswer("is no hub: it gives no X-Repo-Commit", subject, false);
  }
  if (!IsCommit(commit))
    return Invalid("the hub's X-Repo-Commit for " + subject.repo + " is no commit");
  if (IsCommit(subject.revision) && commit != subject.revision) {
    return Invalid("the hub answers with commit " + commit + " of " + subject.repo +
                   ", asked was " + subject.revision);
  }
  return {};
}

struct ByteRange {
  int64_t offset = 0;
  int64_t length = 0;
};

// Takes the bytes of `range` out of a body, which begins with the file unless BeginAt() says more.
class Window {
 public:
  explicit Window(const ByteRange& range) : range_(range) {}

  void BeginAt(int64_t offset) { at_ = offset; }
  void Take(std::span<const char> piece) {
    const auto size = static_cast<int64_t>(piece.size());
    const int64_t from = std::clamp<int64_t>(range_.offset - at_, 0, size);
    const int64_t to = std::clamp<int64_t>(range_.offset + range_.length - at_, 0, size);
    if (from < to) bytes_.append(piece.data() + from, static_cast<size_t>(to - from));
    at_ += size;
  }
  bool full() const { return static_cast<int64_t>(bytes_.size()) >= range_.length; }
  std::string& bytes() { return bytes_; }

 private:
  const ByteRange range_;
  int64_t at_ = 0;
  std::string bytes_;
};

}  // namespace

struct HubClient::Rep {
  Rep(const Options& given, Clock& c)
      : options(given),
        clock(c),
        endpoints(given.endpoint, given.mirrors, c),
        tokens({.token = given.token,
                .token_file = given.token_file,
                .credentials_dir = given.credentials_dir}),
        budget([this](const auto& bucket, milliseconds wait) { OnPause(bucket, wait); }, c) {
    options.endpoint = endpoints.first();
  }

  absl::StatusOr<Call> NewCall(const HubRepo& repo, std::string_view revision,
                               const Patience& patience, std::stop_token stop);
  absl::StatusOr<Call> NewFileCall(const HubRepo& repo, std::string_view commit,
                                   std::string_view path, const Patience& patience,
                                   const std::stop_token& stop);
  HttpRequest NewRequest(HttpMethod method, const std::string& url, const Call& call) const;
  std::optional<RequestBudget::Bucket> BucketOf(const std::string& url,
                                                const std::string& credential) const;

  std::unique_ptr<HttpClient> Borrow();
  void GiveBack(std::unique_ptr<HttpClient> client);

  // Runs `ask` with one endpoint after the other in the call's subject, until one answers.
  absl::Status AskEndpoints(const Call& call, const std::function<absl::Status(const Call&)>& ask);
  absl::Status Retry(const Call& call, const std::function<HubFailure()>& attempt);
  HubFailure WaitForBudget(const std::string& url, const Call& call);
  bool SetAside(const std::string& endpoint, const absl::Status& why);
  void OnPause(const RequestBudget::Bucket& bucket, milliseconds wait) const;
  absl::Status Offline() const;

  HubFailure Exchange(HttpMethod method, const std::string& url, const Call& call, Answer& answer);
  HubFailure GetJson(const std::string& url, const Call& call, Answer& answer);
  HubFailure ExchangeOnce(HttpClient& client, const HttpRequest& request, const Call& call,
                          Answer& answer);
  HubFailure GetPage(const std::string& url, const Call& call, RepoListing& listing,
                     std::string& next);
  absl::StatusOr<RepoListing> ListAt(const Call& call);
  HubFailure LocateOnce(const Call& call, FileLocation& location);
  HubFailure ReadOnce(const FileLocation& location, const Call& call, const ByteRange& range,
                      std::string& bytes);

  Options options;  // constant after construction
  Clock& clock;
  HubEndpoints endpoints;
  HubTokens tokens;
  RequestBudget budget;
  Mutex mutex;
  std::vector<std::unique_ptr<HttpClient>> idle ABSL_GUARDED_BY(mutex);
};

absl::StatusOr<Call> HubClient::Rep::NewCall(const HubRepo& repo, std::string_view revision,
                                             const Patience& patience, std::stop_token stop) {
  RETURN_IF_ERROR(ValidateRepoId(repo.id));
  RETURN_IF_ERROR(ValidateRevision(revision));
  ASSIGN_OR_RETURN(std::string token, tokens.Get(repo.token_credential));
  return Call{.subject = {.repo = repo.id,
                          .revision = std::string(revision),
                          .token_credential = repo.token_credential},
              .token = std::move(token),
              .end = clock.Steady() + patience.deadline,
              .retry = patience.retry,
              .stop = std::move(stop)};
}

absl::StatusOr<Call> HubClient::Rep::NewFileCall(const HubRepo& repo, std::string_view commit,
                                                 std::string_view path, const Patience& patience,
                                                 const std::stop_token& stop) {
  ASSIGN_OR_RETURN(Call call, NewCall(repo, commit, patience, stop));
  RETURN_IF_ERROR(ValidateFilePath(path));
  call.subject.path = path;
  return call;
}

HttpRequest HubClient::Rep::NewRequest(HttpMethod method, const std::string& url,
                                       const Call& call) const {
  const auto left = std::chrono::duration_cast<milliseconds>(call.end - clock.Steady());
  return {.method = method,
          .url = url,
          .bearer_token = endpoints.GetsToken(url) ? call.token : "",
          .connect_timeout = options.connect_timeout,
          .stall_timeout = options.first_byte_timeout,
          .deadline = std::max(left, milliseconds(1))};
}

std::optional<RequestBudget::Bucket> HubClient::Rep::BucketOf(const std::string& url,
                                                              const std::string& credential) const {
  if (!endpoints.IsHub(url)) return std::nullopt;
  const auto origin = UrlOrigin(url);
  if (!origin.ok()) return std::nullopt;
  return RequestBudget::Bucket{*origin, KindOfRequest(url), credential};
}

std::unique_ptr<HttpClient> HubClient::Rep::Borrow() {
  {
    MutexLock lock(mutex);
    if (!idle.empty()) {
      auto client = std::move(idle.back());
      idle.pop_back();
      return client;
    }
  }
  return std::make_unique<HttpClient>(options.http);
}

void HubClient::Rep::GiveBack(std::unique_ptr<HttpClient> client) {
  MutexLock lock(mutex);
  if (idle.size() < kIdleClientsMax) idle.push_back(std::move(client));
}

// No RetryInfo: waiting does not help.
absl::Status HubClient::Rep::Offline() const {
  return Error(Reason::kHubUnavailable,
               "modeld is offline (hub.offline or $HF_HUB_OFFLINE): " +
                   UrlForLog(endpoints.first()) + " is not asked",
               {{"offline", "true"}});
}

bool HubClient::Rep::SetAside(const std::string& endpoint, const absl::Status& why) {
  if (!endpoints.SetAside(endpoint)) return false;
  LogWarning("hub_endpoint_set_aside", {{"endpoint", UrlForLog(endpoint)}, {"error", why}});
  if (options.on_retry) options.on_retry("mirror");
  return true;
}

void HubClient::Rep::OnPause(const RequestBudget::Bucket& bucket, milliseconds wait) const {
  LogWarning("hub_pause", {{"hub", bucket.origin},
                           {"kind", bucket.kind == HubRequestKind::kApi ? "api" : "resolvers"},
                           {"credential", bucket.credential},
                           {"seconds", std::chrono::duration<double>(wait).count()}});
  if (options.on_retry) options.on_retry("rate_limit");
}

absl::Status HubClient::Rep::AskEndpoints(const Call& call,
                                          const std::function<absl::Status(const Call&)>& ask) {
  if (options.offline) return Offline();
  const std::vector<std::string> order = endpoints.Order();
  absl::Status of_first;  // what the hub itself said
  std::string of_mirrors;
  for (size_t i = 0; i < order.size(); ++i) {
    Call at = call;
    at.subject.endpoint = order[i];
    const auto left = static_cast<int>(order.size() - i);
    at.others = left > 1;
    at.end = clock.Steady() + (call.end - clock.Steady()) / left;
    const absl::Status status = ask(at);
    if (status.ok() || absl::IsCancelled(status)) return status;
    const bool away = HasReason(status, Reason::kHubUnavailable);
    if (order[i] == endpoints.first()) {
      if (!away) return status;
      of_first = status;
    } else {
      of_mirrors += "; mirror " + UrlForLog(order[i]) + ": " + std::string(status.message());
    }
    if (away) SetAside(order[i], status);
  }
  if (of_mirrors.empty()) return of_first;
  return ErrorWithDetails(of_first.code(), std::string(of_first.message()) + of_mirrors,
                          DetailsOf(of_first));
}

// A failure, not to be tried again, when the turn comes after the end of the call.
HubFailure HubClient::Rep::WaitForBudget(const std::string& url, const Call& call) {
  const auto bucket = BucketOf(url, call.subject.token_credential);
  while (bucket) {
    const auto wait = budget.Take(*bucket);
    if (!wait) break;
    if (clock.Steady() + *wait >= call.end) {
      return {.status =
                  Unavailable(Reason::kHubUnavailable,
                              UrlForLog(bucket->origin) + " limits our requests for another " +
                                  std::to_string(wait->count() / 1000 + 1) + " s",
                              *wait)};
    }
    if (!clock.Sleep(*wait, call.stop)) return {.status = absl::CancelledError("stopped")};
  }
  return {};
}

absl::Status HubClient::Rep::Retry(const Call& call, const std::function<HubFailure()>& attempt) {
  for (int retries = 0;; ++retries) {
    if (call.stop.stop_requested()) return absl::CancelledError("stopped");
    const HubFailure failure = attempt();
    if (failure.status.ok() || !failure.retry) return failure.status;
    if (!call.retry || retries >= options.retries_max) return failure.status;
    if (failure.unreachable && call.others) return failure.status;
    const milliseconds step =
        std::min(options.backoff_base * (1 << std::min(retries, 10)), kBackoffMax);
    const auto backoff = std::chrono::duration_cast<milliseconds>(step * RandomUnit());
    const milliseconds wait = std::max(backoff, failure.wait.value_or(milliseconds(0)));
    if (clock.Steady() + wait >= call.end) return failure.status;
    LogInfo("hub_request_failed", {{"error", failure.status},
                                   {"retry", retries + 1},
                                   {"wait_seconds", std::chrono::duration<double>(wait).count()}});
    if (options.on_retry) options.on_retry(failure.reason);
    if (!clock.Sleep(wait, call.stop)) return absl::CancelledError("stopped");
  }
}

HubFailure HubClient::Rep::ExchangeOnce(HttpClient& client, const HttpRequest& request,
                                        const Call& call, Answer& answer) {
  HubFailure too_early = WaitForBudget(request.url, call);
  if (!too_early.status.ok()) return too_early;
  answer.body.clear();
  answer.url = request.url;
  bool too_long = false;
  auto response = client.Send(
      request, {},
      [&](std::span<const char> piece) {
        too_long = answer.body.size() + piece.size() > kJsonBytesMax;
        if (too_long) return absl::ResourceExhaustedError("the answer is too long");
        answer.body.append(piece.data(), piece.size());
        return absl::OkStatus();
      },
      call.stop);
  if (too_long) return NonsenseAnswer("answered more than 64 MiB", call.subject, false);
  if (!response.ok()) return TransferFailure(response.status(), call.subject);
  if (const auto bucket = BucketOf(request.url, call.subject.token_credential)) {
    budget.Heed(*bucket, *response);
  }
  answer.response = *std::move(response);
  return {};
}

// Follows redirects within one origin and to those of a hub; another origin ends the chain and is
// left to the caller in foreign_url.
HubFailure HubClient::Rep::Exchange(HttpMethod method, const std::string& url, const Call& call,
                                    Answer& answer) {
  answer = Answer{};
  std::unique_ptr<HttpClient> client = Borrow();
  HttpRequest request = NewRequest(method, url, call);
  for (int hops = 0; hops <= kHopsMax; ++hops) {
    HubFailure failure = ExchangeOnce(*client, request, call, answer);
    if (!failure.status.ok()) return failure;
    const int status = answer.response.status;
    const std::string location(answer.response.Header("Location").value_or(""));
    if (!IsRedirect(status) || location.empty()) {
      GiveBack(std::move(client));
      return status >= 300 ? HubRefusal(answer.response, call.subject) : HubFailure{};
    }
    const auto target = ResolveUrl(request.url, location);
    if (!target.ok()) return NonsenseAnswer("redirects to no URL", call.subject, false);
    if (!endpoints.IsHub(*target) && !SameOrigin(request.url, *target)) {
      answer.foreign_url = *target;
      GiveBack(std::move(client));
      return {};
    }
    answer.before.push_back(std::move(answer.response));
    request = NewRequest(method, *target, call);
  }
  return NonsenseAnswer("redirects more than 20 times", call.subject, false);
}

HubFailure HubClient::Rep::GetJson(const std::string& url, const Call& call, Answer& answer) {
  HubFailure failure = Exchange(HttpMethod::kGet, url, call, answer);
  if (failure.status.ok() && !answer.foreign_url.empty()) {
    return NonsenseAnswer("redirects to another host", call.subject, false);
  }
  return failure;
}

HubClient::HubClient(const Options& options, Clock& clock)
    : rep_(std::make_unique<Rep>(options, clock)) {}
HubClient::~HubClient() = default;

const HubClient::Options& HubClient::options() const { return rep_->options; }

absl::StatusOr<std::string> HubClient::ResolveRevision(const HubRepo& repo,
                                                       std::string_view revision,
                                                       const Patience& patience,
                                                       std::stop_token stop) {
  RETURN_IF_ERROR(ValidateRepoId(repo.id));
  if (IsCommit(revision)) return std::string(revision);
  ASSIGN_OR_RETURN(const Call call, rep_->NewCall(repo, revision, patience, std::move(stop)));
  std::string commit;
  RETURN_IF_ERROR(rep_->AskEndpoints(call, [&](const Call& at) {
    const std::string url = at.subject.endpoint + "/api/models/" + at.subject.repo + "/revision/" +
                            PercentEncode(at.subject.revision);
    return rep_->Retry(at, [&]() -> HubFailure {
      Answer answer;
      HubFailure failure = rep_->GetJson(url, at, answer);
      if (!failure.status.ok()) return failure;
      auto parsed = ParseRevision(answer.body);
      if (absl::IsInvalidArgument(parsed.status())) {
        return NonsenseAnswer("answered no JSON", at.subject, true);
      }
      if (!parsed.ok()) return {.status = parsed.status()};
      commit = *std::move(parsed);
      return {};
    });
  }));
  return commit;
}

HubFailure HubClient::Rep::GetPage(const std::string& url, const Call& call, RepoListing& listing,
                                   std::string& next) {
  Answer answer;
  HubFailure failure = GetJson(url, call, answer);
  if (!failure.status.ok()) return failure;
  const size_t files_before = listing.files.size();
  const absl::Status parsed = AppendTreePage(answer.body, listing.files);
  if (absl::IsInvalidArgument(parsed)) {
    listing.files.resize(files_before);
    return NonsenseAnswer("answered no JSON", call.subject, true);
  }
  if (!parsed.ok()) return {.status = parsed};
  const auto link = NextLink(answer.response);
  if (!link) return {};
  auto target = ResolveUrl(answer.url, *link);
  if (!target.ok() || *target == url) return Invalid("the listing's next page is no other page");
  next = *std::move(target);  // NewRequest gives it our token only where that may go
  return {};
}

// All pages come from one endpoint: another one may cut them elsewhere.
absl::StatusOr<RepoListing> HubClient::Rep::ListAt(const Call& call) {
  const HubSubject& asked = call.subject;
  std::string url = asked.endpoint + "/api/models/" + asked.repo + "/tree/" +
                    PercentEncode(asked.revision) + "?recursive=true&expand=false";
  RepoListing listing{.commit = asked.revision};
  for (int page = 0; !url.empty(); ++page) {
    if (page == kPagesMax || listing.files.size() > kFilesMax) {
      return Invalid("the listing of " + asked.repo + " does not end").status;
    }
    std::string next;
    RETURN_IF_ERROR(Retry(call, [&] { return GetPage(url, call, listing, next); }));
    url = next;
  }
  RETURN_IF_ERROR(FinishListing(listing.files));
  return listing;
}

absl::StatusOr<RepoListing> HubClient::ListFiles(const HubRepo& repo, std::string_view commit,
                                                 const Patience& patience, std::stop_token stop) {
  ASSIGN_OR_RETURN(const Call call, rep_->NewCall(repo, commit, patience, std::move(stop)));
  RepoListing listing;
  RETURN_IF_ERROR(rep_->AskEndpoints(call, [&](const Call& at) -> absl::Status {
    ASSIGN_OR_RETURN(listing, rep_->ListAt(at));
    return absl::OkStatus();
  }));
  return listing;
}

HubFailure HubClient::Rep::LocateOnce(const Call& call, FileLocation& location) {
  const HubSubject& file = call.subject;
  const std::string url = FileUrl(file.endpoint, file.repo, file.revision, file.path);
  Answer answer;
  HubFailure failure = Exchange(HttpMethod::kHead, url, call, answer);
  if (!failure.status.ok()) return failure;
  location.commit = answer.Header("X-Repo-Commit");
  failure = CheckCommit(location.commit, call.subject);
  if (!failure.status.ok()) return failure;

  std::string etag = answer.Header("X-Linked-Etag");
  if (etag.empty()) etag = answer.Header("ETag");
  if (etag.empty()) return NonsenseAnswer("is no hub: it gives no ETag", call.subject, false);
  location.etag = NormaliseEtag(etag);
  if (!IsBlobName(location.etag)) {
    return Invalid("the hub's ETag for " + call.subject.path + " of " + call.subject.repo +
                   " is no digest");
  }

  const bool here = answer.foreign_url.empty();
  const std::string linked_size = answer.Header("X-Linked-Size");
  const std::optional<int64_t> size = !linked_size.empty() ? ParseNumber(linked_size)
                                      : here               ? answer.response.ContentLength()
                                                           : std::nullopt;
  if (!size) return NonsenseAnswer("does not tell the size", call.subject, false);
  location.size_bytes = *size;
  location.url = here ? answer.url : answer.foreign_url;
  location.send_token = endpoints.GetsToken(location.url);
  location.endpoint = file.endpoint;
  return {};
}

absl::StatusOr<FileLocation> HubClient::Locate(const HubRepo& repo, std::string_view commit,
                                               std::string_view path, const Patience& patience,
                                               std::stop_token stop) {
  ASSIGN_OR_RETURN(const Call call, rep_->NewFileCall(repo, commit, path, patience, stop));
  FileLocation location;
  RETURN_IF_ERROR(rep_->AskEndpoints(call, [&](const Call& at) {
    return rep_->Retry(at, [&] { return rep_->LocateOnce(at, location); });
  }));
  return location;
}

// A body from where LocateOnce() found it.
HubFailure HubClient::Rep::ReadOnce(const FileLocation& location, const Call& call,
                                    const ByteRange& range, std::string& bytes) {
  const std::string span =
      std::to_string(range.offset) + "-" + std::to_string(range.offset + range.length - 1);
  HttpRequest request = NewRequest(HttpMethod::kGet, location.url, call);
  request.headers.emplace_back("Range", "bytes=" + span);
  Window window(range);
  HttpResponse head;
  bool exactly = false;  // these bytes are all that comes: the connection stays good
  const auto on_head = [&](const HttpResponse& response) {
    head = response;
    if (head.status == 206 && head.Header("Content-Range") ==
                                  "bytes " + span + "/" + std::to_string(location.size_bytes)) {
      window.BeginAt(range.offset);
      exactly = true;
      return absl::OkStatus();
    }
    // A server without ranges sends everything; what we want may be near the beginning.
    const bool near = range.offset + range.length <= kReadBytesMax;
    return head.status == 200 && near ? absl::OkStatus() : absl::AbortedError("not these bytes");
  };
  const auto on_body = [&](std::span<const char> piece) {
    window.Take(piece);
    return window.full() && !exactly ? absl::AbortedError("enough") : absl::OkStatus();
  };
  HubFailure too_early = WaitForBudget(location.url, call);
  if (!too_early.status.ok()) return too_early;
  std::unique_ptr<HttpClient> client = Borrow();
  const auto response = client->Send(request, on_head, on_body, call.stop);
  GiveBack(std::move(client));
  if (const auto bucket = BucketOf(location.url, call.subject.token_credential)) {
    budget.Heed(*bucket, head);
  }

  if (window.full()) {
    bytes = std::move(window.bytes());
    return {};
  }
  if (head.status >= 400) {
    return endpoints.IsHub(location.url) ? HubRefusal(head, call.subject)
                                         : StorageRefusal(head, call.subject);
  }
  if (response.ok() || absl::IsAborted(response.status())) {
    return NonsenseAnswer("sent other bytes than asked for", call.subject, true);
  }
  return TransferFailure(response.status(), call.subject);
}

absl::StatusOr<std::string> HubClient::ReadRange(const HubRepo& repo, std::string_view commit,
                                                 std::string_view path, int64_t offset,
                                                 int64_t length, const Patience& patience,
                                                 std::stop_token stop) {
  if (offset < 0 || length < 0 || length > kReadBytesMax) {
    return Error(Reason::kInternal, "a range of " + std::to_string(length) + " bytes at " +
                                        std::to_string(offset) + " was asked for");
  }
  ASSIGN_OR_RETURN(const Call call, rep_->NewFileCall(repo, commit, path, patience, stop));
  std::string bytes;
  RETURN_IF_ERROR(rep_->AskEndpoints(call, [&](const Call& at) {
    std::optional<FileLocation> location;
    return rep_->Retry(at, [&]() -> HubFailure {
      if (!location) {
        FileLocation found;
        HubFailure failure = rep_->LocateOnce(at, found);
        if (!failure.status.ok()) return failure;
        location = std::move(found);
      }
      const ByteRange range{offset, std::min(length, location->size_bytes - offset)};
      if (range.length <= 0) return {};
      HubFailure failure = rep_->ReadOnce(*location, at, range, bytes);
      if (!failure.status.ok()) location.reset();  // its URL may have expired
      return failure;
    });
  }));
  return bytes;
}

FileLocation HubClient::AddressOf(const HubRepo& repo, std::string_view commit,
                                  std::string_view path) const {
  FileLocation location;
  location.endpoint = rep_->endpoints.Order().front();
  location.url = FileUrl(location.endpoint, repo.id, commit, path);
  location.send_token = rep_->endpoints.GetsToken(location.url);
  return location;
}

absl::StatusOr<std::string> HubClient::TokenFor(const HubRepo& repo, const std::string& url) const {
  if (!rep_->endpoints.GetsToken(url)) return std::string();
  return rep_->tokens.Get(repo.token_credential);
}

absl::Status HubClient::WaitForTurn(const HubRepo& repo, const std::string& url,
                                    std::stop_token stop) {
  if (rep_->options.offline) return rep_->Offline();
  const auto bucket = rep_->BucketOf(url, repo.token_credential);
  while (bucket) {
    const auto wait = rep_->budget.Take(*bucket);
    if (!wait) break;
    if (!rep_->clock.Sleep(*wait, stop)) return absl::CancelledError("stopped");
  }
  return absl::OkStatus();
}

void HubClient::Heed(const HubRepo& repo, const std::string& url, const HttpResponse& response) {
  if (const auto bucket = rep_->BucketOf(url, repo.token_credential)) {
    rep_->budget.Heed(*bucket, response);
  }
}

bool HubClient::SetAside(const std::string& endpoint) {
  return rep_->SetAside(endpoint,
                        absl::UnavailableError("bytes from there do not come, or are wrong"));
}

}  // namespace modeld
