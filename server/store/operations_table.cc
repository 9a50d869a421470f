#include "server/store/operations_table.h"

#include <limits>
#include <utility>

#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/store/columns.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

// How long WriteProgress() renews a lease for, by the database's clock.
constexpr std::chrono::seconds kProgressLease{30};

// The columns of an Operation in the order of ToOperation(), all of the table `o`.
std::string Columns() {
  return "o.name, o.kind, COALESCE(o.model_id, 0), o.model_name, o.node_id, o.spec, o.state,"
         " o.phase, o.bytes_done, o.bytes_total, o.bytes_per_second, o.eta_ms, o.files_done,"
         " o.files_total, o.files, COALESCE(o.error::text, ''), o.cancel_requested,"
         " o.pause_requested, o.owner, o.epoch, " +
         MicrosecondsSql("o.create_time") + ", " + MicrosecondsSql("o.end_time") +
         ", o.priority, o.bytes_per_second_max, o.waits_for_space";
}

Operation ToOperation(const pqxx::row& row) {
  Operation operation;
  operation.name = row[0].as<std::string>();
  operation.kind = static_cast<OperationKind>(row[1].as<int>());
  operation.model_id = row[2].as<int64_t>();
  operation.model_name = row[3].as<std::string>();
  operation.node_id = row[4].as<std::string>();
  operation.spec = OperationSpecFromJson(row[5].as<std::string>());
  operation.state = static_cast<OperationState>(row[6].as<int>());
  OperationProgress& progress = operation.progress;
  progress.phase = static_cast<OperationPhase>(row[7].as<int>());
  progress.bytes_done = row[8].as<int64_t>();
  progress.bytes_total = row[9].as<int64_t>();
  progress.bytes_per_second = row[10].as<double>();
  if (!row[11].is_null()) progress.eta = milliseconds(row[11].as<int64_t>());
  progress.files_done = row[12].as<int64_t>();
  progress.files_total = row[13].as<int64_t>();
  progress.files = FilesFromJson(row[14].as<std::string>());
  const std::string error = row[15].as<std::string>();
  if (!error.empty()) operation.error = StatusFromJson(error);
  operation.cancel_requested = row[16].as<bool>();
  operation.pause_requested = row[17].as<bool>();
  operation.owner = row[18].as<std::string>();
  operation.epoch = row[19].as<int64_t>();
  operation.create_time = Time(row[20]);
  if (!row[21].is_null()) operation.end_time = Time(row[21]);
  operation.spec.priority = row[22].as<int32_t>();
  operation.spec.bytes_per_second_max = row[23].as<int64_t>();
  operation.waits_for_space = row[24].as<bool>();
  return operation;
}

// "" where the column is to be NULL.
std::string ErrorText(const absl::Status& error) {
  return error.ok() ? std::string() : JsonbText(StatusToJson(error));
}

std::string CancelledText() {
  return ErrorText(absl::CancelledError("the operation was cancelled by request"));
}

// "" where the column is to be NULL.
std::string EtaText(const OperationProgress& progress) {
  return progress.eta ? std::to_string(progress.eta->count()) : std::string();
}

absl::Status LeaseLost(const OperationLease& lease) {
  return absl::AbortedError("operation " + lease.name + ": node " + lease.owner +
                            " lost the lease of epoch " + std::to_string(lease.epoch));
}

absl::Status NotActive(const Operation& operation, std::string_view verb) {
  return Error(Reason::kOperationNotActive,
               "operation " + operation.name + " is " +
                   std::string(OperationStateName(operation.state)) + ", there is nothing to " +
                   std::string(verb),
               {{"state", std::string(OperationStateName(operation.state))}});
}

// $1 to $3 of every statement of an owner.
constexpr char kFence[] = " WHERE o.name = $1 AND o.owner = $2 AND o.epoch = $3 AND o.state = 2";

// $4 to $11.
constexpr char kSetProgress[] =
    " phase = $4, bytes_done = $5, bytes_total = $6, bytes_per_second = $7,"
    " eta_ms = NULLIF($8, '')::bigint, files_done = $9, files_total = $10, files = $11::jsonb";

// Runs an owner's statement; `more` are its parameters from $4 on. No row: the lease is lost.
template <typename... Parameters>
absl::Status Fenced(pqxx::dbtransaction& transaction, const OperationLease& lease,
                    const std::string& statement, pqxx::result& rows, Parameters&&... more) {
  rows = transaction.exec_params(statement, Text(lease.name), Text(lease.owner), lease.epoch,
                                 std::forward<Parameters>(more)...);
  return rows.affected_rows() == 1 ? absl::OkStatus() : LeaseLost(lease);
}

template <typename... Parameters>
absl::Status FencedProgress(pqxx::dbtransaction& transaction, const OperationLease& lease,
                            const OperationProgress& progress, const std::string& statement,
                            pqxx::result& rows, Parameters&&... more) {
  return Fenced(transaction, lease, statement, rows, static_cast<int>(progress.phase),
                progress.bytes_done, progress.bytes_total, progress.bytes_per_second,
                EtaText(progress), progress.files_done, progress.files_total,
                FilesJson(progress.files), std::forward<Parameters>(more)...);
}

absl::Status Find(pqxx::dbtransaction& transaction, std::string_view name, std::string_view locking,
                  Operation& out) {
  const pqxx::result rows = transaction.exec_params(
      "SELECT " + Columns() + " FROM operations o WHERE o.name = $1" + std::string(locking),
      Text(name));
  if (rows.empty()) return OperationNotFound(name);
  out = ToOperation(rows[0]);
  return absl::OkStatus();
}

// Sets what `assignments` say on the operation and reads it again.
absl::Status Change(pqxx::dbtransaction& transaction, const std::string& assignments,
                    Operation& operation) {
  const pqxx::row row = transaction.exec_params1(
      "UPDATE operations o SET " + assignments + " WHERE o.name = $1 RETURNING " + Columns(),
      operation.name);
  operation = ToOperation(row);
  return absl::OkStatus();
}

absl::Status Insert(pqxx::dbtransaction& transaction, const Operation& operation,
                    const std::string& model_name, Operation& out) {
  const OperationProgress& progress = operation.progress;
  const pqxx::row row = transaction.exec_params1(
      "INSERT INTO operations AS o (name, kind, model_id, model_name, node_id, spec, priority,"
      " state, phase, bytes_done, bytes_total, files_done, files_total, files, error, end_time,"
      " bytes_per_second_max)"
      " VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7, $8::smallint, $9, $10, $11, $12, $13,"
      " $14::jsonb, NULLIF($15, '')::jsonb, CASE WHEN $8::smallint IN (4, 5, 6) THEN now() END,"
      " $16)"
      " RETURNING " +
          Columns(),
      Text(operation.name), static_cast<int>(operation.kind), operation.model_id, model_name,
      Text(operation.node_id), OperationSpecJson(operation.spec), operation.spec.priority,
      static_cast<int>(operation.state), static_cast<int>(progress.phase), progress.bytes_done,
      progress.bytes_total, progress.files_done, progress.files_total, FilesJson(progress.files),
      ErrorText(operation.error), operation.spec.bytes_per_second_max);
  out = ToOperation(row);
  return absl::OkStatus();
}

constexpr char kSetResumed[] = "state = 1, due_time = now(), waits_for_space = false, error = NULL";

// What an operation becomes that nobody runs any more: what was asked for meanwhile, else
// `otherwise` with `error`. `cancelled` is the error of a cancelled one. All three are SQL.
std::string SetLetGo(const std::string& otherwise, const std::string& error,
                     const std::string& cancelled) {
  return " state = CASE WHEN o.cancel_requested THEN 6 WHEN o.pause_requested THEN 3 ELSE " +
         otherwise + " END, error = CASE WHEN o.cancel_requested THEN " + cancelled +
         "::jsonb WHEN o.pause_requested THEN NULL ELSE " + error +
         " END, end_time = CASE WHEN o.cancel_requested THEN now() END,"
         " pause_requested = false, owner = '', lease_until = NULL";
}

// How an operation goes on that its owner lets go, unless something else was asked for meanwhile.
struct LetGo {
  OperationState state = OperationState::kPending;
  absl::Status error;
  milliseconds delay{0};         // of kPending
  bool waits_for_space = false;  // of kPaused
};

absl::Status LetGoOf(Database& database, const OperationLease& lease, OperationProgress progress,
                     const LetGo& to) {
  progress.bytes_per_second = 0;
  progress.eta.reset();
  return database.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    pqxx::result rows;
    RETURN_IF_ERROR(FencedProgress(
        transaction, lease, progress,
        "UPDATE operations o SET" + std::string(kSetProgress) + "," +
            SetLetGo("$13::smallint", "NULLIF($14, '')::jsonb", "$12") +
            ", due_time = clock_timestamp() + $15::bigint * interval '1 millisecond',"
            " waits_for_space = $16::boolean AND NOT o.cancel_requested AND NOT o.pause_requested" +
            kFence + " RETURNING o.state, o.waits_for_space",
        rows, CancelledText(), static_cast<int>(to.state), ErrorText(to.error),
        static_cast<int64_t>(to.delay.count()), to.waits_for_space));
    const bool cancelled =
        static_cast<OperationState>(rows[0][0].as<int>()) == OperationState::kCancelled;
    // What waits for space must not keep it from others that would fit.
    if (cancelled || rows[0][1].as<bool>()) {
      transaction.exec_params("DELETE FROM reservations WHERE operation = $1", Text(lease.name));
    }
    return absl::OkStatus();
  });
}

}  // namespace

absl::StatusOr<Operation> OperationsTable::Start(const Operation& operation, const Decide& decide) {
  Operation started;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result models = transaction.exec_params(
        "SELECT model_name FROM modelregistry WHERE id = $1 FOR NO KEY UPDATE", operation.model_id);
    if (models.empty()) return ModelNotFound(operation.model_name);

    std::vector<Operation> active;
    for (const pqxx::row& row :
         transaction.exec_params("SELECT " + Columns() +
                                     " FROM operations o WHERE o.model_id = $1"
                                     " AND o.node_id = $2 AND o.state IN (1, 2, 3) ORDER BY o.id",
                                 operation.model_id, Text(operation.node_id))) {
      active.push_back(ToOperation(row));
    }
    ASSIGN_OR_RETURN(const Decision decision, decide(active));
    if (decision.join) return Find(transaction, *decision.join, "", started);
    if (!decision.insert) return Error(Reason::kInternal, "a request was neither joined nor begun");
    return Insert(transaction, operation, models[0][0].as<std::string>(), started);
  }));
  return started;
}

absl::StatusOr<Operation> OperationsTable::Get(std::string_view name) {
  Operation operation;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    return Find(transaction, name, "", operation);
  }));
  return operation;
}

absl::StatusOr<std::vector<Operation>> OperationsTable::List(std::optional<std::string> model_name,
                                                             std::string_view before,
                                                             int64_t limit) {
  std::vector<Operation> operations;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    operations.clear();
    int64_t before_id = std::numeric_limits<int64_t>::max();
    if (!before.empty()) {
      const pqxx::result rows =
          transaction.exec_params("SELECT id FROM operations WHERE name = $1", Text(before));
      if (rows.empty()) return OperationNotFound(before);
      before_id = rows[0][0].as<int64_t>();
    }
    for (const pqxx::row& row : transaction.exec_params(
             "SELECT " + Columns() +
                 " FROM operations o WHERE o.id < $1"
                 " AND ($2 OR o.model_name = $3) ORDER BY o.id DESC LIMIT $4",
             before_id, !model_name.has_value(), Text(model_name.value_or("")), limit)) {
      operations.push_back(ToOperation(row));
    }
    return absl::OkStatus();
  }));
  return operations;
}

absl::StatusOr<std::vector<Operation>> OperationsTable::Claim(std::string_view node_id,
                                                              std::chrono::seconds lease,
                                                              const ClaimRoom& room) {
  constexpr char kDue[] =
      " AND (CASE state WHEN 1 THEN due_time ELSE lease_until END) <= clock_timestamp()"
      " ORDER BY priority DESC, id LIMIT ";
  std::vector<Operation> claimed;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    claimed.clear();
    for (const pqxx::row& row : transaction.exec_params(
             "WITH downloads AS (SELECT id FROM operations WHERE node_id = $1"
             "   AND state IN (1, 2) AND kind = 1 AND priority > $5::bigint" +
                 std::string(kDue) +
                 "$2 FOR NO KEY UPDATE SKIP LOCKED),"
                 " others AS (SELECT id FROM operations WHERE node_id = $1"
                 "   AND state IN (1, 2) AND kind <> 1" +
                 kDue +
                 "$4 FOR NO KEY UPDATE SKIP LOCKED),"
                 " o AS (UPDATE operations SET state = 2, owner = $1, epoch = epoch + 1,"
                 "   lease_until = clock_timestamp() + $3::bigint * interval '1 second'"
                 "   WHERE id IN (SELECT id FROM downloads UNION ALL SELECT id FROM others)"
                 "   RETURNING *)"
                 " SELECT " +
                 Columns() + " FROM o ORDER BY o.priority DESC, o.id",
             Text(node_id), room.downloads, static_cast<int64_t>(lease.count()), room.others,
             room.downloads_above)) {
      claimed.push_back(ToOperation(row));
    }
    return absl::OkStatus();
  }));
  return claimed;
}

absl::Status OperationsTable::Reclaim(std::string_view node_id) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params("WITH o AS (UPDATE operations o SET" + SetLetGo("1", "o.error", "$2") +
                                ", due_time = now() WHERE o.node_id = $1 AND o.state = 2"
                                " RETURNING o.name, o.state)"
                                " DELETE FROM reservations r USING o"
                                " WHERE r.operation = o.name AND o.state = 6",
                            Text(node_id), CancelledText());
    return absl::OkStatus();
  });
}

absl::Status OperationsTable::Renew(const OperationLease& lease, std::chrono::seconds by) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    pqxx::result rows;
    return Fenced(transaction, lease,
                  std::string("UPDATE operations o SET lease_until ="
                              " clock_timestamp() + $4::bigint * interval '1 second'") +
                      kFence,
                  rows, static_cast<int64_t>(by.count()));
  });
}

absl::StatusOr<OperationsTable::Wishes> OperationsTable::WriteProgress(
    const OperationLease& lease, const OperationProgress& progress) {
  Wishes wishes;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    pqxx::result rows;
    RETURN_IF_ERROR(FencedProgress(
        transaction, lease, progress,
        std::string("UPDATE operations o SET") + kSetProgress +
            ", lease_until = clock_timestamp() + $12::bigint * interval '1 second'" + kFence +
            " RETURNING o.cancel_requested, o.pause_requested, o.priority,"
            " o.bytes_per_second_max",
        rows, static_cast<int64_t>(kProgressLease.count())));
    wishes = {.cancel = rows[0][0].as<bool>(),
              .pause = rows[0][1].as<bool>(),
              .priority = rows[0][2].as<int32_t>(),
              .bytes_per_second_max = rows[0][3].as<int64_t>()};
    return absl::OkStatus();
  }));
  return wishes;
}

absl::Status OperationsTable::Finish(const OperationLease& lease, OperationState state,
                                     const absl::Status& error, const OperationProgress& progress) {
  MODELD_CHECK(IsFinal(state), "an operation is finished with a final state");
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    pqxx::result rows;
    RETURN_IF_ERROR(
        FencedProgress(transaction, lease, progress,
                       std::string("UPDATE operations o SET") + kSetProgress +
                           ", state = $12, error = NULLIF($13, '')::jsonb, end_time = now(),"
                           " pause_requested = false, owner = '', lease_until = NULL" +
                           kFence,
                       rows, static_cast<int>(state), ErrorText(error)));
    transaction.exec_params("DELETE FROM reservations WHERE operation = $1", Text(lease.name));
    return absl::OkStatus();
  });
}

absl::Status OperationsTable::GiveBack(const OperationLease& lease, milliseconds delay,
                                       const absl::Status& last_error,
                                       const OperationProgress& progress) {
  return LetGoOf(database_, lease, progress,
                 {.state = OperationState::kPending, .error = last_error, .delay = delay});
}

absl::Status OperationsTable::Pause(const OperationLease& lease,
                                    const OperationProgress& progress) {
  return LetGoOf(database_, lease, progress, {.state = OperationState::kPaused});
}

absl::Status OperationsTable::WaitForSpace(const OperationLease& lease, const absl::Status& error,
                                           const OperationProgress& progress) {
  return LetGoOf(database_, lease, progress,
                 {.state = OperationState::kPaused, .error = error, .waits_for_space = true});
}

absl::StatusOr<Operation> OperationsTable::RequestCancel(std::string_view name) {
  Operation operation;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(Find(transaction, name, " FOR NO KEY UPDATE", operation));
    if (operation.done()) return NotActive(operation, "cancel");
    if (operation.state == OperationState::kRunning) {
      return Change(transaction, "cancel_requested = true", operation);
    }
    const pqxx::row row = transaction.exec_params1(
        "UPDATE operations o SET state = 6, cancel_requested = true, end_time = now(),"
        " waits_for_space = false, error = $2::jsonb WHERE o.name = $1 RETURNING " +
            Columns(),
        operation.name, CancelledText());
    operation = ToOperation(row);
    transaction.exec_params("DELETE FROM reservations WHERE operation = $1", operation.name);
    return absl::OkStatus();
  }));
  return operation;
}

absl::StatusOr<Operation> OperationsTable::RequestPause(std::string_view name) {
  Operation operation;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(Find(transaction, name, " FOR NO KEY UPDATE", operation));
    switch (operation.state) {
      case OperationState::kPaused:
      case OperationState::kPending:
        return Change(transaction, "state = 3, waits_for_space = false, error = NULL", operation);
      case OperationState::kRunning:
        return Change(transaction, "pause_requested = true", operation);
      default:
        return NotActive(operation, "pause");
    }
  }));
  return operation;
}

absl::StatusOr<Operation> OperationsTable::Resume(std::string_view name) {
  Operation operation;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(Find(transaction, name, " FOR NO KEY UPDATE", operation));
    if (operation.state == OperationState::kPaused) {
      return Change(transaction, kSetResumed, operation);
    }
    // Its owner has not obeyed the pause yet, and need not any more.
    if (operation.pause_requested && !operation.done()) {
      return Change(transaction, "pause_requested = false", operation);
    }
    return NotActive(operation, "resume");
  }));
  return operation;
}

absl::StatusOr<std::vector<Operation>> OperationsTable::ListPaused(std::string_view node_id) {
  std::vector<Operation> paused;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    paused.clear();
    for (const pqxx::row& row :
         transaction.exec_params("SELECT " + Columns() +
                                     " FROM operations o WHERE o.node_id = $1 AND o.state = 3"
                                     " ORDER BY o.priority DESC, o.id",
                                 Text(node_id))) {
      paused.push_back(ToOperation(row));
    }
    return absl::OkStatus();
  }));
  return paused;
}

absl::Status OperationsTable::EndWaitForSpace(std::string_view name) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params("UPDATE operations o SET " + std::string(kSetResumed) +
                                " WHERE o.name = $1 AND o.state = 3 AND o.waits_for_space",
                            Text(name));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<std::string>> OperationsTable::RaiseDownloads(int64_t model_id,
                                                                         std::string_view node_id,
                                                                         int32_t priority) {
  std::vector<std::string> raised;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    raised.clear();
    for (const pqxx::row& row : transaction.exec_params(
             "UPDATE operations o SET priority = $3 WHERE o.model_id = $1 AND o.node_id = $2"
             " AND o.kind = 1 AND o.state IN (1, 2, 3) AND o.priority < $3 RETURNING o.name",
             model_id, Text(node_id), priority)) {
      raised.push_back(row[0].as<std::string>());
    }
    return absl::OkStatus();
  }));
  return raised;
}

absl::StatusOr<Operation> OperationsTable::SetBytesPerSecondMax(std::string_view name,
                                                                int64_t bytes_per_second_max) {
  Operation operation;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    RETURN_IF_ERROR(Find(transaction, name, " FOR NO KEY UPDATE", operation));
    if (operation.done()) return NotActive(operation, "limit");
    const pqxx::row row = transaction.exec_params1(
        "UPDATE operations o SET bytes_per_second_max = $2 WHERE o.name = $1 RETURNING " +
            Columns(),
        operation.name, bytes_per_second_max);
    operation = ToOperation(row);
    return absl::OkStatus();
  }));
  return operation;
}

}  // namespace modeld
