#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <string>

#include "server/base/file.h"
#include "server/http/http_server.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

// Sends one request on a connection of its own and reads to the end.
std::string Ask(const std::string& address, const std::string& request) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in peer{
      .sin_family = AF_INET,
      .sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)))),
      .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}};
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&peer), sizeof peer) != 0) return "";
  const std::string bytes = request + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  if (send(fd.get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    return "";
  std::string answer;
  char buffer[4096];
  while (true) {
    const ssize_t n = recv(fd.get(), buffer, sizeof buffer, 0);
    if (n <= 0) return answer;
    answer.append(buffer, static_cast<size_t>(n));
  }
}

class HttpServerTest : public testing::Test {
 protected:
  HttpServerTest() {
    auto server = HttpServer::Start({.address = "127.0.0.1:0", .threads = 4}, metrics_,
                                    [this] { return readiness_; });
    if (server.ok()) server_ = *std::move(server);
  }

  Metrics metrics_;
  Readiness readiness_{.ready = false, .message = "waiting for the database"};
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, HealthIsAliveAndReadinessFollowsTheDaemon) {
  ASSERT_NE(server_, nullptr);
  EXPECT_NE(Ask(server_->address(), "GET /healthz").find("HTTP/1.1 200"), std::string::npos);
  const std::string away = Ask(server_->address(), "GET /readyz");
  EXPECT_NE(away.find("HTTP/1.1 503"), std::string::npos);
  EXPECT_NE(away.find("waiting for the database"), std::string::npos);

  readiness_ = {.ready = true, .message = "ready"};

  EXPECT_NE(Ask(server_->address(), "GET /readyz").find("HTTP/1.1 200"), std::string::npos);
}

TEST_F(HttpServerTest, MetricsAreTheScrape) {
  ASSERT_NE(server_, nullptr);
  metrics_.db_up.Set(1);

  const std::string answer = Ask(server_->address(), "GET /metrics");

  EXPECT_NE(answer.find("text/plain; version=0.0.4"), std::string::npos);
  EXPECT_NE(answer.find("\nmodeld_db_up 1"), std::string::npos);
  const std::string head = Ask(server_->address(), "HEAD /metrics");
  EXPECT_TRUE(head.ends_with("\r\n\r\n")) << head;
}

TEST_F(HttpServerTest, OtherPathsAndMethodsGetErrorObjects) {
  ASSERT_NE(server_, nullptr);
  EXPECT_NE(Ask(server_->address(), "POST /metrics").find("HTTP/1.1 405"), std::string::npos);
  EXPECT_NE(Ask(server_->address(), "GET /nothing").find("\"NOT_FOUND\""), std::string::npos);
  const std::string api = Ask(server_->address(), "POST /api/models");
  EXPECT_NE(api.find("HTTP/1.1 501"), std::string::npos);
  EXPECT_NE(api.find("METHOD_NOT_SUPPORTED"), std::string::npos);
}

TEST(HttpServerStartTest, AddressThatIsTakenOrNoneIsAnError) {
  const Metrics metrics;
  const auto first = HttpServer::Start({.address = "127.0.0.1:0", .threads = 2}, metrics,
                                       [] { return Readiness{}; });
  ASSERT_THAT(first, IsOk());

  EXPECT_THAT(HttpServer::Start({.address = (*first)->address(), .threads = 2}, metrics,
                                [] { return Readiness{}; }),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_THAT(
      HttpServer::Start({.address = "nonsense", .threads = 2}, metrics, [] { return Readiness{}; }),
      StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace modeld
