#include "server/store/connection.h"

#include <libpq-fe.h>

#include <algorithm>
#include <chrono>

#include "server/core/reason.h"

namespace modeld {
namespace {

// How long clients are told to wait before they try again.
constexpr std::chrono::seconds kRetryAfter{2};

// The first line of a message of the server, without its "ERROR:  "; the others say where in the
// SQL.
std::string FirstLine(std::string_view message) {
  message = message.substr(0, message.find('\n'));
  constexpr std::string_view kPrefix = "ERROR:";
  if (message.starts_with(kPrefix)) {
    message.remove_prefix(kPrefix.size());
    message.remove_prefix(std::min(message.find_first_not_of(' '), message.size()));
  }
  return std::string(message);
}

void ReplaceAll(std::string& text, std::string_view what, std::string_view by) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
}

// keyword='value' ... as PQconnectdb reads it.
std::string Conninfo(const std::vector<ConnectionParameter>& parameters) {
  std::string out;
  for (const auto& [keyword, value] : parameters) {
    out += keyword + "='";
    for (const char c : value) {
      if (c == '\'' || c == '\\') out += '\\';
      out += c;
    }
    out += "' ";
  }
  return out;
}

}  // namespace

absl::StatusOr<std::vector<ConnectionParameter>> ConnectionParameters(
    const Database::Options& options) {
  char* why = nullptr;
  const std::unique_ptr<PQconninfoOption, decltype(&PQconninfoFree)> parsed(
      PQconninfoParse(options.url.c_str(), &why), &PQconninfoFree);
  PQfreemem(why);  // not shown: it repeats parts of the URL
  if (parsed == nullptr) return absl::InvalidArgumentError("database.url is no libpq URI");

  std::vector<ConnectionParameter> out;
  const auto set = [&](std::string_view keyword, std::string value) {
    const auto same = [&](const ConnectionParameter& p) { return p.keyword == keyword; };
    if (std::ranges::none_of(out, same)) out.push_back({std::string(keyword), std::move(value)});
  };
  if (!options.password.empty()) set("password", options.password);
  for (const PQconninfoOption* option = parsed.get(); option->keyword != nullptr; ++option) {
    if (option->val != nullptr && *option->val != '\0') set(option->keyword, option->val);
  }
  // libpq waits at least 2 s. Without keepalives a server that lost its power is never missed.
  const auto seconds = std::chrono::ceil<std::chrono::seconds>(options.connect_timeout).count();
  set("connect_timeout", std::to_string(std::max<int64_t>(2, seconds)));
  set("keepalives_idle", "10");
  set("keepalives_interval", "5");
  set("keepalives_count", "3");
  set("tcp_user_timeout", std::to_string(options.statement_timeout.count() + 5'000));
  set("application_name", "modeld");
  set("client_encoding", "UTF8");
  return out;
}

absl::Status DatabaseUnavailable(std::string_view message,
                                 const std::vector<ConnectionParameter>& parameters) {
  std::string text(message);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  ReplaceAll(text, "\n\t", " ");  // a hint that libpq goes on with
  ReplaceAll(text, "\n", "; ");
  for (const auto& [keyword, value] : parameters) {
    if ((keyword == "password" || keyword == "sslpassword") && !value.empty()) {
      ReplaceAll(text, value, "***");
    }
  }
  return Unavailable(Reason::kDatabaseUnavailable, "the database is not available: " + text,
                     kRetryAfter);
}

// inhibit_reactivation is deprecated with the reactivation itself, which this release still does.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
Connection::Connection(const std::string& conninfo) : connection(conninfo), quiet(connection) {
  connection.inhibit_reactivation(true);
}
#pragma GCC diagnostic pop

absl::StatusOr<std::unique_ptr<Connection>> Connect(
    const std::vector<ConnectionParameter>& parameters) {
  try {
    return std::make_unique<Connection>(Conninfo(parameters));
  } catch (const pqxx::failure& error) {
    return DatabaseUnavailable(error.what(), parameters);
  }
}

SqlFailure ClassifySqlState(std::string_view sqlstate) {
  // 57P01 to 57P03: shutting down, crashed, starting up. 25006: a standby that takes no writes.
  if (sqlstate.starts_with("57P") || sqlstate.starts_with("08")) return SqlFailure::kConnectionLost;
  if (sqlstate == "25006") return SqlFailure::kUnavailable;
  if (sqlstate == "40001" || sqlstate == "40P01") return SqlFailure::kTryAgain;
  // 57014: statement timeout; 55P03: lock timeout; 53: out of connections, disk or memory.
  if (sqlstate == "57014" || sqlstate == "55P03" || sqlstate.starts_with("53") ||
      sqlstate.starts_with("58")) {
    return SqlFailure::kUnavailable;
  }
  return SqlFailure::kOther;
}

absl::Status SqlErrorStatus(const pqxx::sql_error& error) {
  const std::string& state = error.sqlstate();
  const std::string message = FirstLine(error.what());
  if (ClassifySqlState(state) == SqlFailure::kUnavailable ||
      ClassifySqlState(state) == SqlFailure::kTryAgain) {
    return DatabaseUnavailable(message + " (" + state + ")");
  }
  // MD001 is raised by our own migrations: the table needs a person's decision.
  if (state == "MD001") return absl::FailedPreconditionError(message);
  // Text that is not UTF-8 came from the request.
  if (state == "22021") return InvalidField("text", "is not UTF-8");
  // Every foreign key of ours points to the model.
  if (state == "23503") return Error(Reason::kModelNotFound, "the model was deleted");
  return Error(Reason::kInternal, "database: " + message + " (" + state + ")");
}

}  // namespace modeld
