// The HTTP side of the daemon: /metrics, /healthz, /readyz. CivetWeb's threads serve it, apart from
// gRPC's. Paths that later work brings answer 501 with an error object.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/metrics/metrics.h"

namespace modeld {

// Whether the daemon can do its work, and why not.
struct Readiness {
  bool ready = false;
  std::string message;  // one line
};

// Thread-safe. The destructor stops the threads and closes the socket.
class HttpServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:8080";  // HOST:PORT or [IPv6]:PORT; port 0: any free one
    int64_t threads = 256;
  };

  // `readiness` is asked for /readyz and must not block. INVALID_ARGUMENT for an address that is
  // none; UNAVAILABLE when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const Options& options,
                                                           const Metrics& metrics,
                                                           std::function<Readiness()> readiness);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // HOST:PORT with the port that was bound.
  const std::string& address() const;

 private:
  struct Rep;
  explicit HttpServer(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
