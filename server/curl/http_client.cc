#include "server/curl/http_client.h"

#include <curl/curl.h>
#include <strings.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <memory>

#include "absl/strings/cord.h"
#include "server/base/status.h"
#include "server/curl/url.h"

namespace modeld {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr char kFailurePayload[] = "modeld/http-failure";
constexpr long kBufferBytes = 512 * 1024;
// How late a deadline or a stall is noticed at most; a stop wakes the poll at once.
constexpr milliseconds kPollMax{100};
// An honest hub sends a few kB; libcurl itself limits one line to 100 KiB.
constexpr size_t kHeaderBytesMax = 512 * 1024;

// libcurl wants one initialisation before the first handle, and never a second one beside it.
void InitializeLibrary() {
  static const CURLcode result = curl_global_init(CURL_GLOBAL_ALL);
  MODELD_CHECK(result == CURLE_OK, "libcurl does not start");
}

absl::Status Failure(HttpFailure failure, std::string_view message) {
  absl::Status status(failure == HttpFailure::kInvalidUrl ? absl::StatusCode::kInvalidArgument
                      : failure == HttpFailure::kDeadline ? absl::StatusCode::kDeadlineExceeded
                                                          : absl::StatusCode::kUnavailable,
                      std::string(message));
  status.SetPayload(kFailurePayload, absl::Cord(std::to_string(static_cast<int>(failure))));
  return status;
}

HttpFailure FailureOfCode(CURLcode code) {
  switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return HttpFailure::kInvalidUrl;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return HttpFailure::kResolve;
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT:  // only CONNECTTIMEOUT_MS is set
    case CURLE_PROXY:
      return HttpFailure::kConnect;
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_INVALIDCERTSTATUS:
      return HttpFailure::kTls;
    case CURLE_WEIRD_SERVER_REPLY:
      return HttpFailure::kProtocol;
    default:
      return HttpFailure::kCut;
  }
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlanks);
  if (begin == std::string_view::npos) return "";
  return text.substr(begin, text.find_last_not_of(kBlanks) - begin + 1);
}

bool EqualNoCase(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables
  return value == nullptr ? "" : value;
}

// A header line may not smuggle in another one.
bool IsHeaderText(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return c == '\r' || c == '\n' || c == '\0'; });
}

using HeaderList = std::unique_ptr<curl_slist, decltype(&curl_slist_free_all)>;

absl::StatusOr<HeaderList> RequestHeaders(const HttpRequest& request) {
  HeaderList list(nullptr, &curl_slist_free_all);
  const auto add = [&list](const std::string& line) {
    curl_slist* longer = curl_slist_append(list.get(), line.c_str());
    MODELD_CHECK(longer != nullptr, "no memory for a header");
    if (list == nullptr) list.reset(longer);
  };
  add("Accept-Encoding: identity");
  for (const auto& [name, value] : request.headers) {
    if (!IsHeaderText(name) || !IsHeaderText(value)) {
      return absl::InvalidArgumentError("a request header has a line break");
    }
    add(name + ": " + value);
  }
  if (!request.bearer_token.empty()) {
    if (!IsHeaderText(request.bearer_token)) {
      return absl::InvalidArgumentError("the token has a line break");
    }
    add("Authorization: Bearer " + request.bearer_token);
  }
  return list;
}

// What the callbacks of one transfer share.
struct Transfer {
  const HttpClient::OnHeaders& on_headers;
  const HttpClient::OnBody& on_body;
  HttpResponse response;
  size_t header_bytes = 0;
  bool headers_done = false;
  absl::Status refused;  // what a callback said
  SteadyClock::time_point last_byte = SteadyClock::now();
};

absl::Status TakeHeaderLine(Transfer& transfer, std::string_view line) {
  if (transfer.headers_done) return absl::OkStatus();  // trailers
  transfer.header_bytes += line.size();
  if (transfer.header_bytes > kHeaderBytesMax) {
    return Failure(HttpFailure::kProtocol, "the response has more than 512 KiB of headers");
  }
  HttpResponse& response = transfer.response;
  if (line.starts_with("HTTP/")) {
    response.headers.clear();
    const size_t space = line.find(' ');
    response.status = 0;
    if (space != std::string_view::npos) {
      std::from_chars(line.data() + space + 1, line.data() + line.size(), response.status);
    }
    return absl::OkStatus();
  }
  if (!Trimmed(line).empty()) {
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos) return absl::OkStatus();
    response.headers.emplace_back(Trimmed(line.substr(0, colon)), Trimmed(line.substr(colon + 1)));
    return absl::OkStatus();
  }
  if (response.status < 200) return absl::OkStatus();  // 100 Continue: others follow
  transfer.headers_done = true;
  return transfer.on_headers ? transfer.on_headers(response) : absl::OkStatus();
}

// libcurl's callbacks. Anything but `bytes` ends the transfer.
size_t OnHeaderLine(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  transfer.refused = TakeHeaderLine(transfer, std::string_view(data, bytes));
  transfer.last_byte = SteadyClock::now();
  return transfer.refused.ok() ? bytes : bytes + 1;
}

size_t OnBodyBytes(char* data, size_t size, size_t count, void* user) {
  auto& transfer = *static_cast<Transfer*>(user);
  const size_t bytes = size * count;
  transfer.response.body_bytes += static_cast<int64_t>(bytes);
  if (transfer.on_body) transfer.refused = transfer.on_body(std::span<const char>(data, bytes));
  transfer.last_byte = SteadyClock::now();
  return transfer.refused.ok() ? bytes : bytes + 1;
}

std::string Seconds(milliseconds time) {
  std::string text =
      std::to_string(time.count() / 1000) + "." + std::to_string(time.count() % 1000 / 100);
  return text + " s";
}

}  // namespace

struct HttpClient::Rep {
  using Multi = std::unique_ptr<CURLM, decltype(&curl_multi_cleanup)>;
  using Easy = std::unique_ptr<CURL, decltype(&curl_easy_cleanup)>;

  explicit Rep(const HttpSettings& given)
      : settings(given),
        multi((InitializeLibrary(), curl_multi_init()), &curl_multi_cleanup),
        easy(curl_easy_init(), &curl_easy_cleanup) {
    MODELD_CHECK(multi != nullptr && easy != nullptr, "no memory for an HTTP client");
  }

  void Prepare(const HttpRequest& request, curl_slist* headers, Transfer& transfer);
  absl::StatusOr<CURLcode> Drive(const HttpRequest& request, const Transfer& transfer,
                                 const std::stop_token& stop);

  const HttpSettings settings;
  const Multi multi;  // keeps the connections
  const Easy easy;    // destroyed first
};

// Options go back to their defaults each time, so that nothing of one request, such as its token,
// reaches the next; connections are not options and stay.
void HttpClient::Rep::Prepare(const HttpRequest& request, curl_slist* headers, Transfer& transfer) {
  CURL* const handle = easy.get();
  curl_easy_reset(handle);
  const auto set = [handle](CURLoption option, auto value) {
    MODELD_CHECK(curl_easy_setopt(handle, option, value) == CURLE_OK, "libcurl lacks an option");
  };
  set(CURLOPT_URL, request.url.c_str());
  set(CURLOPT_NOBODY, request.method == HttpMethod::kHead ? 1L : 0L);
  if (request.method == HttpMethod::kGet) set(CURLOPT_HTTPGET, 1L);
  set(CURLOPT_HTTPHEADER, headers);
  set(CURLOPT_USERAGENT, settings.user_agent.c_str());
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_PROTOCOLS_STR, "http,https");
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(request.connect_timeout.count()));
  set(CURLOPT_BUFFERSIZE, kBufferBytes);
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_HEADERFUNCTION, &OnHeaderLine);
  set(CURLOPT_HEADERDATA, static_cast<void*>(&transfer));
  set(CURLOPT_WRITEFUNCTION, &OnBodyBytes);
  set(CURLOPT_WRITEDATA, static_cast<void*>(&transfer));
  if (!settings.ca_file.empty()) set(CURLOPT_CAINFO, settings.ca_file.c_str());
  if (!settings.ca_path.empty()) set(CURLOPT_CAPATH, settings.ca_path.c_str());
  if (!settings.proxy.empty()) {
    set(CURLOPT_PROXY, settings.proxy.c_str());
  } else if (!settings.http_proxy.empty() && request.url.starts_with("http://")) {
    set(CURLOPT_PROXY, settings.http_proxy.c_str());
  }
}

// Runs the transfer to its end; an error when we end it ourselves.
absl::StatusOr<CURLcode> HttpClient::Rep::Drive(const HttpRequest& request,
                                                const Transfer& transfer,
                                                const std::stop_token& stop) {
  const SteadyClock::time_point start = SteadyClock::now();
  bool connected = false;
  while (true) {
    if (stop.stop_requested()) return absl::CancelledError("stopped while it was fetched");
    int running = 0;
    if (curl_multi_perform(multi.get(), &running) != CURLM_OK) {
      return absl::InternalError("libcurl cannot go on with a transfer");
    }
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi.get(), &left)) {
      if (message->msg == CURLMSG_DONE) return message->data.result;
    }
    const SteadyClock::time_point now = SteadyClock::now();
    if (request.deadline.count() > 0 && now - start >= request.deadline) {
      return Failure(HttpFailure::kDeadline, "not whole after " + Seconds(request.deadline));
    }
    // The time until the connection stands has a limit of its own.
    curl_off_t pretransfer_us = 0;
    if (!connected &&
        curl_easy_getinfo(easy.get(), CURLINFO_PRETRANSFER_TIME_T, &pretransfer_us) == CURLE_OK) {
      connected = pretransfer_us > 0;
    }
    if (connected && now - transfer.last_byte >= request.stall_timeout) {
      return Failure(HttpFailure::kStalled, "no byte for " + Seconds(request.stall_timeout));
    }
    curl_multi_poll(multi.get(), nullptr, 0, static_cast<int>(kPollMax.count()), nullptr);
  }
}

HttpClient::HttpClient(const HttpSettings& settings) : rep_(std::make_unique<Rep>(settings)) {}
HttpClient::~HttpClient() = default;

absl::StatusOr<HttpResponse> HttpClient::Send(const HttpRequest& request,
                                              const OnHeaders& on_headers, const OnBody& on_body,
                                              std::stop_token stop) {
  const std::string shown = UrlForLog(request.url);
  if (const auto origin = UrlOrigin(request.url); !origin.ok()) {
    return Failure(HttpFailure::kInvalidUrl, std::string(origin.status().message()));
  }
  ASSIGN_OR_RETURN(const HeaderList headers, RequestHeaders(request));
  Transfer transfer{.on_headers = on_headers, .on_body = on_body};
  rep_->Prepare(request, headers.get(), transfer);

  CURLM* const multi = rep_->multi.get();
  MODELD_CHECK(curl_multi_add_handle(multi, rep_->easy.get()) == CURLM_OK, "a handle is in use");
  absl::StatusOr<CURLcode> ended = CURLE_OK;
  {
    const std::stop_callback wake(stop, [multi] { curl_multi_wakeup(multi); });
    ended = rep_->Drive(request, transfer, stop);
  }
  // Removing a transfer that is not finished closes its connection.
  curl_multi_remove_handle(multi, rep_->easy.get());

  if (!transfer.refused.ok()) return transfer.refused;
  if (!ended.ok()) return WithContext(ended.status(), shown);
  if (*ended == CURLE_OK) return std::move(transfer.response);
  long connect_status = 0;  // of the proxy
  curl_easy_getinfo(rep_->easy.get(), CURLINFO_HTTP_CONNECTCODE, &connect_status);
  if (connect_status >= 300) {
    return Failure(HttpFailure::kConnect, shown + ": the proxy answered " +
                                              std::to_string(connect_status) + " to CONNECT");
  }
  return Failure(FailureOfCode(*ended), shown + ": " + curl_easy_strerror(*ended));
}

HttpFailure HttpFailureOf(const absl::Status& status) {
  const auto payload = status.GetPayload(kFailurePayload);
  if (!payload.has_value()) return HttpFailure::kNone;
  const std::string text(*payload);
  int number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return static_cast<HttpFailure>(number);
}

std::string_view HttpFailureName(HttpFailure failure) {
  switch (failure) {
    case HttpFailure::kNone:
      return "";
    case HttpFailure::kInvalidUrl:
      return "invalid_url";
    case HttpFailure::kResolve:
      return "resolve";
    case HttpFailure::kConnect:
      return "connect";
    case HttpFailure::kTls:
      return "tls";
    case HttpFailure::kStalled:
      return "stalled";
    case HttpFailure::kDeadline:
      return "deadline";
    case HttpFailure::kCut:
      return "cut";
    case HttpFailure::kProtocol:
      return "protocol";
  }
  return "protocol";
}

HttpSettings HttpSettingsFromEnvironment() {
  HttpSettings settings;
  for (const char* name : {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}) {
    settings.ca_file = Environment(name);
    if (!settings.ca_file.empty()) break;
  }
  settings.ca_path = Environment("SSL_CERT_DIR");
  // libcurl ignores the upper-case name, which CGI scripts can be made to have; Python does not.
  if (Environment("http_proxy").empty()) settings.http_proxy = Environment("HTTP_PROXY");
  return settings;
}

std::optional<std::string_view> HttpResponse::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (EqualNoCase(key, name)) return value;
  }
  return std::nullopt;
}

std::vector<std::string_view> HttpResponse::HeadersOf(std::string_view name) const {
  std::vector<std::string_view> found;
  for (const auto& [key, value] : headers) {
    if (EqualNoCase(key, name)) found.emplace_back(value);
  }
  return found;
}

std::optional<int64_t> HttpResponse::ContentLength() const {
  const auto text = Header("Content-Length");
  int64_t bytes = 0;
  if (!text.has_value()) return std::nullopt;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), bytes);
  if (error != std::errc() || end != text->data() + text->size() || bytes < 0) return std::nullopt;
  return bytes;
}

}  // namespace modeld
