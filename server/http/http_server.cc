#include "server/http/http_server.h"

#include <civetweb.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

namespace modeld {
namespace {

constexpr char kTextType[] = "text/plain; charset=utf-8";
constexpr char kMetricsType[] = "text/plain; version=0.0.4; charset=utf-8";

// Answers with a whole body; HEAD gets the headers of GET.
int Answer(mg_connection* connection, int code, const char* type, const std::string& body,
           const char* more_headers = "") {
  const mg_request_info* request = mg_get_request_info(connection);
  mg_printf(connection,
            "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%sCache-Control: "
            "no-store\r\n\r\n",
            code, mg_get_response_code_text(connection, code), type, body.size(), more_headers);
  if (std::strcmp(request->request_method, "HEAD") != 0) {
    mg_write(connection, body.data(), body.size());
  }
  return code;
}

// The error object of /api: {"error":{"code","status","reason","message","details"}}.
int AnswerError(mg_connection* connection, int code, const char* status, const char* reason,
                const std::string& message, const char* more_headers = "") {
  const nlohmann::ordered_json body = {{"error",
                                        {{"code", code},
                                         {"status", status},
                                         {"reason", reason},
                                         {"message", message},
                                         {"details", nlohmann::json::array()}}}};
  const std::string text =
      body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  return Answer(connection, code, "application/json", text, more_headers);
}

}  // namespace

struct HttpServer::Rep {
  const Metrics* metrics;
  std::function<Readiness()> readiness;
  std::string address;
  mg_context* context = nullptr;

  ~Rep() {
    if (context != nullptr) mg_stop(context);
  }

  int Handle(mg_connection* connection) const {
    const mg_request_info* request = mg_get_request_info(connection);
    const std::string_view path = request->local_uri != nullptr ? request->local_uri : "";
    const std::string_view method = request->request_method;
    const bool known = path == "/metrics" || path == "/healthz" || path == "/readyz";
    if (!known) return HandleOther(connection, path);
    if (method != "GET" && method != "HEAD") {
      return AnswerError(connection, 405, "INVALID_ARGUMENT", "INVALID_FIELD",
                         std::string(path) + " answers GET and HEAD only", "Allow: GET, HEAD\r\n");
    }
    if (path == "/metrics") return Answer(connection, 200, kMetricsType, metrics->Scrape());
    if (path == "/healthz") return Answer(connection, 200, kTextType, "ok\n");
    const Readiness state = readiness();
    return Answer(connection, state.ready ? 200 : 503, kTextType, state.message + "\n");
  }

  static int HandleOther(mg_connection* connection, std::string_view path) {
    if (path == "/" || path.starts_with("/api/") || path.starts_with("/v1/")) {
      return AnswerError(
          connection, 501, "UNIMPLEMENTED", "METHOD_NOT_SUPPORTED",
          std::string(path) + " is not supported by this version of modeld; use gRPC");
    }
    return AnswerError(connection, 404, "NOT_FOUND", "ROUTE_NOT_FOUND",
                       "no route " + std::string(path));
  }
};

HttpServer::HttpServer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

HttpServer::~HttpServer() = default;

const std::string& HttpServer::address() const { return rep_->address; }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const Options& options, const Metrics& metrics, std::function<Readiness()> readiness) {
  const size_t colon = options.address.rfind(':');
  if (colon == std::string::npos || colon + 1 == options.address.size()) {
    return absl::InvalidArgumentError("server.http_address: \"" + options.address +
                                      "\" is not HOST:PORT");
  }
  const std::string host = options.address.substr(0, colon);
  // CivetWeb binds addresses, not names.
  const std::string bound_host = host == "localhost" ? "127.0.0.1" : host;
  const std::string listen = bound_host + options.address.substr(colon);
  const std::string threads = std::to_string(options.threads);

  auto rep = std::make_unique<Rep>();
  rep->metrics = &metrics;
  rep->readiness = std::move(readiness);

  const char* settings[] = {"listening_ports",
                            listen.c_str(),
                            "num_threads",
                            threads.c_str(),
                            "request_timeout_ms",
                            "30000",
                            "enable_keep_alive",
                            "yes",
                            "keep_alive_timeout_ms",
                            "5000",
                            "tcp_nodelay",
                            "1",
                            nullptr};
  mg_callbacks callbacks{};
  callbacks.begin_request = [](mg_connection* connection) {
    const auto* self = static_cast<const Rep*>(mg_get_user_data(mg_get_context(connection)));
    return self->Handle(connection);
  };
  char error[256] = "";
  mg_error_data error_data{};
  error_data.text = error;
  error_data.text_buffer_size = sizeof error;
  mg_init_data init{};
  init.callbacks = &callbacks;
  init.user_data = rep.get();
  init.configuration_options = settings;
  rep->context = mg_start2(&init, &error_data);
  if (rep->context == nullptr) {
    return absl::UnavailableError("cannot listen on " + options.address + ": " + error);
  }
  mg_server_port port{};
  if (mg_get_server_ports(rep->context, 1, &port) != 1) {
    return absl::UnavailableError("cannot listen on " + options.address);
  }
  rep->address = bound_host + ":" + std::to_string(port.port);
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(rep)));
}

}  // namespace modeld
