// HTTP GET and HEAD over libcurl, one transfer at a time, the connection kept for the next one.
// No redirect is followed here and no status is an error: both belong to the caller's protocol.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

enum class HttpMethod { kGet, kHead };

// Sent with every request beside `headers`: Accept-Encoding: identity, User-Agent.
struct HttpRequest {
  HttpMethod method = HttpMethod::kGet;
  std::string url;  // http or https; may be signed: never part of an error or a log line as a whole
  std::vector<std::pair<std::string, std::string>> headers;
  std::string bearer_token;  // Authorization of this request only; empty: none
  std::chrono::milliseconds connect_timeout{10'000};
  // No byte for so long after the connection was made, also before the first one. The time that the
  // callbacks take does not count.
  std::chrono::milliseconds stall_timeout{30'000};
  std::chrono::milliseconds deadline{0};  // whole request; 0: none
};

struct HttpResponse {
  int status = 0;
  std::vector<std::pair<std::string, std::string>>
      headers;             // in order, values without outer blanks
  int64_t body_bytes = 0;  // given to OnBody

  // The first header of that name, whatever its case.
  std::optional<std::string_view> Header(std::string_view name) const;
  // All headers of that name, in order.
  std::vector<std::string_view> HeadersOf(std::string_view name) const;
  // Content-Length; nothing when it is missing or no number.
  std::optional<int64_t> ContentLength() const;
};

// Why a transfer failed below HTTP.
enum class HttpFailure {
  kNone,        // not a failure of the transfer: OK, a callback's own error, or CANCELLED
  kInvalidUrl,  // INVALID_ARGUMENT: not http(s), or no URL at all
  kResolve,     // UNAVAILABLE: no such host, or no name server
  kConnect,     // UNAVAILABLE: refused, unreachable, or not connected in connect_timeout
  kTls,         // UNAVAILABLE: handshake or certificate
  kStalled,     // UNAVAILABLE: no byte for stall_timeout
  kDeadline,    // DEADLINE_EXCEEDED
  kCut,         // UNAVAILABLE: closed before the response was whole
  kProtocol,    // UNAVAILABLE: the peer does not speak HTTP
};
HttpFailure HttpFailureOf(const absl::Status& status);
// "resolve", "connect", "cut", ... for metrics; "" for kNone.
std::string_view HttpFailureName(HttpFailure failure);

// What comes from the surroundings of the process.
struct HttpSettings {
  std::string user_agent = "modeld";
  std::string ca_file;  // empty: the system's
  std::string ca_path;
  std::string proxy;       // for every URL but those of $NO_PROXY; may have a password in it
  std::string http_proxy;  // for http:// only; the lower-case variables are read by libcurl itself
};
// SSL_CERT_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE (first that is set), SSL_CERT_DIR, HTTP_PROXY.
HttpSettings HttpSettingsFromEnvironment();

// One thread at a time. Keeps its connections open; one client per worker.
class HttpClient {
 public:
  // Called once when the final headers are in, before the body. An error ends the transfer.
  using OnHeaders = std::function<absl::Status(const HttpResponse&)>;
  // Called for each piece of the body, at most 16 KiB. An error ends the transfer.
  using OnBody = std::function<absl::Status(std::span<const char>)>;

  explicit HttpClient(const HttpSettings& settings = HttpSettingsFromEnvironment());
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // The whole exchange. Errors: a callback's own status as it is; CANCELLED within 100 ms of
  // `stop`; else one with an HttpFailure, whose message names the URL without its query. Empty
  // callbacks are fine.
  absl::StatusOr<HttpResponse> Send(const HttpRequest& request, const OnHeaders& on_headers,
                                    const OnBody& on_body, std::stop_token stop);

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
