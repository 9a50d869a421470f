#include "server/store/listener.h"

#include <libpq-fe.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/base/log.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/store/connection.h"

namespace modeld {
namespace {

using Connected = std::unique_ptr<PGconn, decltype(&PQfinish)>;

constexpr std::chrono::milliseconds kBackoffMin{100};
constexpr std::chrono::milliseconds kBackoffMax{5'000};

}  // namespace

// libpq itself, not libpqxx: its connects and reads can wait for the end of this object as well.
struct ChangeListener::Rep {
  Rep(const Database::Options& o, OnChange c) : options(o), on_change(std::move(c)) {}

  void Run(const std::stop_token& stop);
  // Connects, listens and tells until the connection or this object ends. `heard`: it got that far.
  absl::Status Listen(const std::stop_token& stop, bool& heard);
  absl::StatusOr<Connected> ConnectNow(const std::stop_token& stop);
  // False when the object ends or `timeout` passes first.
  bool WaitFor(const PGconn* connection, short events, std::chrono::milliseconds timeout) const;
  absl::Status ErrorOf(const PGconn* connection) const;

  const Database::Options options;
  const OnChange on_change;
  const UniqueFd wake{eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::vector<ConnectionParameter> parameters;  // of the thread
  std::jthread thread;                          // last, so that it ends before what it uses
};

absl::Status ChangeListener::Rep::ErrorOf(const PGconn* connection) const {
  return DatabaseUnavailable(PQerrorMessage(connection), parameters);
}

bool ChangeListener::Rep::WaitFor(const PGconn* connection, short events,
                                  std::chrono::milliseconds timeout) const {
  pollfd fds[] = {{.fd = PQsocket(connection), .events = events, .revents = 0},
                  {.fd = wake.get(), .events = POLLIN, .revents = 0}};
  const int ready = poll(fds, 2, static_cast<int>(timeout.count()));
  return ready > 0 && fds[1].revents == 0;
}

absl::StatusOr<Connected> ChangeListener::Rep::ConnectNow(const std::stop_token& stop) {
  std::vector<const char*> keywords;
  std::vector<const char*> values;
  for (const ConnectionParameter& parameter : parameters) {
    keywords.push_back(parameter.keyword.c_str());
    values.push_back(parameter.value.c_str());
  }
  keywords.push_back(nullptr);
  values.push_back(nullptr);
  Connected connection(PQconnectStartParams(keywords.data(), values.data(), /*expand_dbname=*/0),
                       &PQfinish);
  const auto deadline = std::chrono::steady_clock::now() + options.connect_timeout;
  PostgresPollingStatusType status = PGRES_POLLING_WRITING;
  while (status != PGRES_POLLING_OK) {
    if (PQstatus(connection.get()) == CONNECTION_BAD || status == PGRES_POLLING_FAILED) {
      return ErrorOf(connection.get());
    }
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    if (left.count() <= 0) return DatabaseUnavailable("no connection in time");
    const short events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT;
    const bool ready = WaitFor(connection.get(), events, left);
    if (stop.stop_requested()) return absl::CancelledError("the listener ends");
    if (ready) status = PQconnectPoll(connection.get());
  }
  return connection;
}

absl::Status ChangeListener::Rep::Listen(const std::stop_token& stop, bool& heard) {
  ASSIGN_OR_RETURN(const Connected connection, ConnectNow(stop));
  PGconn* const c = connection.get();
  PQsetNoticeProcessor(c, [](void*, const char*) {}, nullptr);  // stderr otherwise
  if (PQsendQuery(c, "LISTEN modeld") != 1) return ErrorOf(c);
  while (!stop.stop_requested()) {
    // Only keepalives (connection.cc) end a connection whose server vanished, so that this waits
    // for ever.
    if (!WaitFor(c, POLLIN, std::chrono::milliseconds(-1))) continue;
    if (PQconsumeInput(c) != 1) return ErrorOf(c);
    while (PQisBusy(c) == 0) {
      const std::unique_ptr<PGresult, decltype(&PQclear)> result(PQgetResult(c), &PQclear);
      if (result == nullptr) break;
      if (PQresultStatus(result.get()) != PGRES_COMMAND_OK) return ErrorOf(c);
      heard = true;
      LogInfo("changes_listened");
      on_change("");  // what happened before the LISTEN was not told
    }
    for (;;) {
      const std::unique_ptr<PGnotify, decltype(&PQfreemem)> notify(PQnotifies(c), &PQfreemem);
      if (notify == nullptr) break;
      on_change(notify->extra);
    }
  }
  return absl::OkStatus();
}

void ChangeListener::Rep::Run(const std::stop_token& stop) {
  absl::StatusOr<std::vector<ConnectionParameter>> parsed = ConnectionParameters(options);
  if (!parsed.ok()) {
    LogError("listener_failed", {{"error", parsed.status()}});
    return;
  }
  parameters = *std::move(parsed);
  std::chrono::milliseconds backoff = kBackoffMin;
  while (!stop.stop_requested()) {
    bool heard = false;
    const absl::Status status = Listen(stop, heard);
    if (stop.stop_requested()) return;
    // The first failure after a time of hearing is news, those that follow are not.
    if (heard || backoff == kBackoffMin) LogWarning("listener_lost", {{"error", status}});
    backoff = heard ? kBackoffMin : std::min(backoff * 2, kBackoffMax);
    const auto jittered = backoff * (0.5 + RandomUnit() / 2);
    Clock::Real().Sleep(std::chrono::duration_cast<std::chrono::nanoseconds>(jittered), stop);
  }
}

ChangeListener::ChangeListener(const Database::Options& options, OnChange on_change)
    : rep_(std::make_unique<Rep>(options, std::move(on_change))) {
  MODELD_CHECK(rep_->wake.valid(), "eventfd");
  rep_->thread = std::jthread([rep = rep_.get()](const std::stop_token& stop) { rep->Run(stop); });
}

ChangeListener::~ChangeListener() {
  rep_->thread.request_stop();
  const uint64_t one = 1;
  // A counter that is full has woken the thread already.
  [[maybe_unused]] const ssize_t written = write(rep_->wake.get(), &one, sizeof(one));
}

}  // namespace modeld
