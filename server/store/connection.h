// One connection to PostgreSQL, and what its errors mean. For the files of this folder only.
#pragma once

#include <memory>
#include <pqxx/pqxx>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/store/database.h"

namespace modeld {

// One keyword of libpq with its value.
struct ConnectionParameter {
  std::string keyword;
  std::string value;
};

// The parameters of `options.url` with the password, time limits and application name added.
// INVALID_ARGUMENT, without a word of the URL (it may hold a password), when it is no libpq URI.
absl::StatusOr<std::vector<ConnectionParameter>> ConnectionParameters(
    const Database::Options& options);

// DATABASE_UNAVAILABLE with `message`, cleaned of the passwords in `parameters` and of line breaks.
absl::Status DatabaseUnavailable(std::string_view message,
                                 const std::vector<ConnectionParameter>& parameters = {});

// A connection that stays lost when it is lost: libpqxx would otherwise make a new one silently.
struct Connection {
  explicit Connection(const std::string& conninfo);

  pqxx::connection connection;
  pqxx::quiet_errorhandler
      quiet;  // notices go to stderr otherwise; destroyed before the connection
};

// Connects; DATABASE_UNAVAILABLE when that fails.
absl::StatusOr<std::unique_ptr<Connection>> Connect(
    const std::vector<ConnectionParameter>& parameters);

// What an SQL error is to the callers of the store.
enum class SqlFailure {
  kConnectionLost,  // the server ends the session: the transaction did not happen
  kTryAgain,        // deadlock or serialisation failure: rolled back
  kUnavailable,     // timeouts, no resources, a read-only standby
  kOther,
};
SqlFailure ClassifySqlState(std::string_view sqlstate);

// The status for an error of which trying again does not help.
absl::Status SqlErrorStatus(const pqxx::sql_error& error);

}  // namespace modeld
