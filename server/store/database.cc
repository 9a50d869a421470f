#include "server/store/database.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/store/connection.h"
#include "server/store/migrations.h"

namespace modeld {
namespace {

// Any 64-bit number that every modeld uses, and nobody else: "modeld" in ASCII.
constexpr char kLockForMigrations[] = "SELECT pg_advisory_xact_lock(120342090343524)";

// A migration may rewrite a large table, or wait for another daemon that does.
constexpr std::chrono::minutes kMigrationTimeout{10};

// Deadlocks and lost sessions: one fresh try for a session, and one more for each lost race.
constexpr int kAttemptsMax = 4;

}  // namespace

struct Database::Rep {
  using Body = std::function<absl::Status(pqxx::dbtransaction&)>;

  explicit Rep(const Options& o) : options(o), parameters(ConnectionParameters(o)) {}

  absl::Status Run(std::chrono::milliseconds timeout, const Body& body) ABSL_LOCKS_EXCLUDED(mutex);
  absl::Status ApplyNext(bool& done);

  // What became of one attempt. `again`: nothing happened in the database, and a new try may help.
  struct Attempt {
    absl::Status status;
    bool again = false;
    bool lost = false;  // the connection is of no use any more
  };
  Attempt RunOnce(Connection& connection, std::chrono::milliseconds timeout, const Body& body);

  // An idle connection or a new one; waits while all are in use.
  absl::StatusOr<std::unique_ptr<Connection>> Acquire() ABSL_LOCKS_EXCLUDED(mutex);
  void GiveBack(std::unique_ptr<Connection> connection) ABSL_LOCKS_EXCLUDED(mutex);
  // Throws away `connection` and those that lie idle: what ended one has ended them too, as a rule.
  void Discard(std::unique_ptr<Connection> connection) ABSL_LOCKS_EXCLUDED(mutex);
  void SetUp(const absl::Status& status);

  const Options options;
  const absl::StatusOr<std::vector<ConnectionParameter>> parameters;
  std::atomic<bool> up{false};

  Mutex mutex;
  CondVar freed;
  std::vector<std::unique_ptr<Connection>> idle ABSL_GUARDED_BY(mutex);
  int in_use ABSL_GUARDED_BY(mutex) = 0;
};

void Database::Rep::SetUp(const absl::Status& status) {
  const bool now = !HasReason(status, Reason::kDatabaseUnavailable);
  const bool before = up.exchange(now);
  if (now && !before) LogInfo("database_reached");
  if (!now && before) LogWarning("database_lost", {{"error", status}});
}

absl::StatusOr<std::unique_ptr<Connection>> Database::Rep::Acquire() {
  RETURN_IF_ERROR(parameters.status());
  const auto deadline = std::chrono::steady_clock::now() + options.statement_timeout;
  {
    MutexLock lock(mutex);
    while (in_use >= options.connections) {
      if (!freed.WaitUntil(mutex, deadline) && in_use >= options.connections) {
        return DatabaseUnavailable("all " + std::to_string(in_use) + " connections are in use");
      }
    }
    ++in_use;
    if (!idle.empty()) {
      std::unique_ptr<Connection> connection = std::move(idle.back());
      idle.pop_back();
      return connection;
    }
  }
  auto connection = Connect(*parameters);
  if (!connection.ok()) {
    MutexLock lock(mutex);
    --in_use;
    freed.NotifyOne();
  }
  return connection;
}

void Database::Rep::GiveBack(std::unique_ptr<Connection> connection) {
  MutexLock lock(mutex);
  --in_use;
  idle.push_back(std::move(connection));
  freed.NotifyOne();
}

void Database::Rep::Discard(std::unique_ptr<Connection> connection) {
  std::vector<std::unique_ptr<Connection>> dead;  // closed without the lock
  dead.push_back(std::move(connection));
  MutexLock lock(mutex);
  --in_use;
  for (auto& other : idle) dead.push_back(std::move(other));
  idle.clear();
  freed.NotifyOne();
}

Database::Rep::Attempt Database::Rep::RunOnce(Connection& connection,
                                              std::chrono::milliseconds timeout, const Body& body) {
  bool committing = false;
  const auto lost = [&](const char* what) -> Attempt {
    if (!committing) return {DatabaseUnavailable(what, *parameters), /*again=*/true, /*lost=*/true};
    return {DatabaseUnavailable("outcome unknown: the connection broke during the commit"),
            /*again=*/false, /*lost=*/true};
  };
  try {
    pqxx::work transaction(connection.connection);
    transaction.exec("SET LOCAL statement_timeout = " + std::to_string(timeout.count()));
    const absl::Status status = body(transaction);
    if (!status.ok()) return {status};  // the destructor rolls back
    committing = true;
    transaction.commit();
    return {absl::OkStatus()};
  } catch (const pqxx::in_doubt_error& error) {
    committing = true;
    return lost(error.what());
  } catch (const pqxx::broken_connection& error) {
    return lost(error.what());
  } catch (const pqxx::transaction_rollback& error) {
    return {DatabaseUnavailable(error.what()), /*again=*/true};
  } catch (const pqxx::sql_error& error) {
    switch (ClassifySqlState(error.sqlstate())) {
      case SqlFailure::kConnectionLost:
        return lost(error.what());
      case SqlFailure::kTryAgain:
        return {SqlErrorStatus(error), /*again=*/true};
      case SqlFailure::kUnavailable:
        return {SqlErrorStatus(error), false, /*lost=*/true};
      case SqlFailure::kOther:
        return {SqlErrorStatus(error)};
    }
    return {SqlErrorStatus(error)};
  } catch (const pqxx::argument_error& error) {
    return {InvalidField("text", error.what())};  // columns.h refuses what PostgreSQL cannot keep
  } catch (const pqxx::pqxx_exception& error) {
    return {Error(Reason::kInternal, std::string("database: ") + error.base().what()), false,
            /*lost=*/true};
  }
}

absl::Status Database::Rep::Run(std::chrono::milliseconds timeout, const Body& body) {
  Attempt attempt;
  bool lost_before = false;
  for (int i = 0; i < kAttemptsMax; ++i) {
    absl::StatusOr<std::unique_ptr<Connection>> connection = Acquire();
    if (!connection.ok()) {
      SetUp(connection.status());
      return connection.status();
    }
    attempt = RunOnce(**connection, timeout, body);
    if (attempt.lost) {
      Discard(*std::move(connection));
    } else {
      GiveBack(*std::move(connection));
    }
    if (!attempt.again || (attempt.lost && lost_before)) break;
    lost_before = lost_before || attempt.lost;
  }
  SetUp(attempt.status);
  return attempt.status;
}

absl::Status Database::Rep::ApplyNext(bool& done) {
  return Run(kMigrationTimeout, [&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec(kLockForMigrations);
    transaction.exec(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY,"
        " name TEXT NOT NULL, apply_time TIMESTAMPTZ NOT NULL DEFAULT now())");
    const int applied =
        transaction.exec1("SELECT COALESCE(max(version), 0) FROM schema_migrations")[0].as<int>();
    const auto migrations = Migrations();
    if (applied > std::ssize(migrations)) {
      return absl::FailedPreconditionError("the database's schema has version " +
                                           std::to_string(applied) + ", this modeld knows up to " +
                                           std::to_string(migrations.size()) +
                                           ": use a newer modeld");
    }
    done = applied == std::ssize(migrations);
    if (done) return absl::OkStatus();
    const Migration& next = migrations[static_cast<size_t>(applied)];
    transaction.exec(std::string(next.sql));
    transaction.exec_params("INSERT INTO schema_migrations (version, name) VALUES ($1, $2)",
                            next.version, std::string(next.name));
    return absl::OkStatus();
  });
}

Database::Database(const Options& options) : rep_(std::make_unique<Rep>(options)) {}
Database::~Database() = default;

absl::Status Database::Migrate() {
  bool done = false;
  while (!done) RETURN_IF_ERROR(rep_->ApplyNext(done));
  return absl::OkStatus();
}

absl::Status Database::Transact(const std::function<absl::Status(pqxx::dbtransaction&)>& body) {
  return rep_->Run(rep_->options.statement_timeout, body);
}

bool Database::up() const { return rep_->up; }

const Database::Options& Database::options() const { return rep_->options; }

}  // namespace modeld
