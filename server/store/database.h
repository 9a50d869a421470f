// PostgreSQL: a pool of connections, transactions, migrations. The folder store/ is the only one
// that knows pqxx; its exceptions end here.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace pqxx {
class dbtransaction;
}

namespace modeld {

// Thread-safe. Connections are made when they are needed and thrown away when they break, so the
// database may come and go: while it is away every call answers DATABASE_UNAVAILABLE (with
// RetryInfo).
class Database {
 public:
  struct Options {
    std::string url = "postgresql:///modeld";  // libpq URI without a password
    std::string password;                      // never logged; empty: none
    int connections = 8;                       // at most; further callers wait
    std::chrono::milliseconds connect_timeout{5'000};
    std::chrono::milliseconds statement_timeout{15'000};
  };

  explicit Database(const Options& options);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Brings the schema up to date under an advisory lock, one transaction a migration, recorded in
  // schema_migrations. Adopts a modelregistry that the predecessor made. FAILED_PRECONDITION naming
  // the rows when that one has duplicate model names, or when the schema is newer than this
  // program.
  absl::Status Migrate();

  // Runs `body` in one transaction and commits it. An error from `body` rolls back and is handed
  // on. A connection that broke before the commit was sent is tried once more on a fresh one; a
  // commit whose outcome is not known answers DATABASE_UNAVAILABLE ("outcome unknown"): read again
  // by key.
  absl::Status Transact(const std::function<absl::Status(pqxx::dbtransaction&)>& body);

  // Whether the last attempt to reach the database succeeded. Never blocks.
  bool up() const;

  const Options& options() const;

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
