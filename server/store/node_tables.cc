#include "server/store/node_tables.h"

#include <algorithm>

#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/store/columns.h"

namespace modeld {
namespace {

std::string OrEmptyArray(const std::string& json) { return json.empty() ? "[]" : JsonbText(json); }

Copy ToCopy(const pqxx::row& row) {
  return {.model_id = row[0].as<int64_t>(),
          .node_id = row[1].as<std::string>(),
          .cache_path = row[2].as<std::string>(),
          .commit = row[3].as<std::string>(),
          .snapshot_path = row[4].as<std::string>(),
          .filter = {.allow_patterns = PatternsFromJson(row[5].as<std::string>()),
                     .ignore_patterns = PatternsFromJson(row[6].as<std::string>())},
          .complete = row[7].as<bool>(),
          .size_bytes = row[8].as<int64_t>()};
}

Instance ToInstance(const pqxx::row& row) {
  return {.instance_id = row[0].as<std::string>(),
          .model_id = row[1].as<int64_t>(),
          .model_name = row[2].as<std::string>(),
          .node_id = row[3].as<std::string>(),
          .pid = row[4].as<int64_t>(),
          .commit = row[5].as<std::string>(),
          .spec = LoadSpecFromJson(row[6].as<std::string>()),
          .devices = DevicesFromJson(row[7].as<std::string>()),
          .state = static_cast<InstanceState>(row[8].as<int>()),
          .load_seconds = row[9].as<double>(),
          .active_requests = row[10].as<int64_t>(),
          .waiting_requests = row[11].as<int64_t>(),
          .create_time = Time(row[12])};
}

}  // namespace

absl::Status LoadsTable::Put(const Load& load) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const int64_t used_us = std::chrono::duration_cast<std::chrono::microseconds>(
                                load.last_used_time.time_since_epoch())
                                .count();
    // A load that was never used counts as used now.
    transaction.exec_params(
        "INSERT INTO loads (model_id, node_id, commit, spec, pinned, wanted, last_used_time)"
        " VALUES ($1, $2, $3, $4::jsonb, $5, $6, CASE WHEN $7::bigint = 0 THEN now()"
        " ELSE to_timestamp(0) + $7::bigint * interval '1 microsecond' END)"
        " ON CONFLICT (model_id, node_id) DO UPDATE SET commit = EXCLUDED.commit,"
        " spec = EXCLUDED.spec, pinned = EXCLUDED.pinned, wanted = EXCLUDED.wanted,"
        " last_used_time = EXCLUDED.last_used_time",
        load.model_id, Text(load.node_id), Text(load.commit), LoadSpecJson(load.spec), load.pinned,
        load.wanted, used_us);
    return absl::OkStatus();
  });
}

absl::Status LoadsTable::SetWanted(int64_t model_id, std::string_view node_id, bool wanted) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows =
        transaction.exec_params("UPDATE loads SET wanted = $3 WHERE model_id = $1 AND node_id = $2",
                                model_id, Text(node_id), wanted);
    // What was never asked for is not wanted, as it should be; but it cannot become wanted.
    if (rows.affected_rows() == 0 && wanted) {
      return absl::NotFoundError("node " + std::string(node_id) + " has no load of the model " +
                                 std::to_string(model_id));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<Load>> LoadsTable::List(std::string_view node_id) {
  std::vector<Load> loads;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    loads.clear();
    for (const pqxx::row& row :
         transaction.exec_params("SELECT model_id, node_id, commit, spec, pinned, wanted, " +
                                     MicrosecondsSql("last_used_time") +
                                     " FROM loads WHERE node_id = $1 ORDER BY model_id",
                                 Text(node_id))) {
      loads.push_back({.model_id = row[0].as<int64_t>(),
                       .node_id = row[1].as<std::string>(),
                       .commit = row[2].as<std::string>(),
                       .spec = LoadSpecFromJson(row[3].as<std::string>()),
                       .pinned = row[4].as<bool>(),
                       .wanted = row[5].as<bool>(),
                       .last_used_time = Time(row[6])});
    }
    return absl::OkStatus();
  }));
  return loads;
}

absl::Status CopiesTable::Put(const Copy& copy) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params(
        "INSERT INTO copies (model_id, node_id, cache_path, commit, snapshot_path,"
        " allow_patterns, ignore_patterns, complete, size_bytes)"
        " VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9)"
        " ON CONFLICT (model_id, node_id, cache_path, commit) DO UPDATE SET"
        " snapshot_path = EXCLUDED.snapshot_path, allow_patterns = EXCLUDED.allow_patterns,"
        " ignore_patterns = EXCLUDED.ignore_patterns, complete = EXCLUDED.complete,"
        " size_bytes = EXCLUDED.size_bytes, update_time = now()",
        copy.model_id, Text(copy.node_id), Text(copy.cache_path), Text(copy.commit),
        Text(copy.snapshot_path), PatternsJson(copy.filter.allow_patterns),
        PatternsJson(copy.filter.ignore_patterns), copy.complete, copy.size_bytes);
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<Copy>> CopiesTable::List(int64_t model_id) {
  std::vector<Copy> copies;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    copies.clear();
    for (const pqxx::row& row : transaction.exec_params(
             "SELECT model_id, node_id, cache_path, commit, snapshot_path, allow_patterns,"
             " ignore_patterns, complete, size_bytes FROM copies WHERE model_id = $1"
             " ORDER BY update_time DESC, node_id, commit",
             model_id)) {
      copies.push_back(ToCopy(row));
    }
    return absl::OkStatus();
  }));
  return copies;
}

absl::Status CopiesTable::Delete(int64_t model_id, std::string_view node_id) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params("DELETE FROM copies WHERE model_id = $1 AND node_id = $2", model_id,
                            Text(node_id));
    return absl::OkStatus();
  });
}

absl::Status CopiesTable::DeleteCommit(std::string_view node_id, std::string_view cache_path,
                                       std::string_view commit) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params(
        "DELETE FROM copies WHERE node_id = $1 AND cache_path = $2 AND commit = $3", Text(node_id),
        Text(cache_path), Text(commit));
    return absl::OkStatus();
  });
}

absl::Status InstancesTable::Put(const Instance& instance) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params(
        "INSERT INTO instances (instance_id, model_id, node_id, pid, commit, spec, devices,"
        " state, load_seconds, active_requests, waiting_requests)"
        " VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10, $11)"
        " ON CONFLICT (instance_id) DO UPDATE SET pid = EXCLUDED.pid, commit = EXCLUDED.commit,"
        " spec = EXCLUDED.spec, devices = EXCLUDED.devices, state = EXCLUDED.state,"
        " load_seconds = EXCLUDED.load_seconds, active_requests = EXCLUDED.active_requests,"
        " waiting_requests = EXCLUDED.waiting_requests",
        Text(instance.instance_id), instance.model_id, Text(instance.node_id), instance.pid,
        Text(instance.commit), LoadSpecJson(instance.spec), DevicesJson(instance.devices),
        static_cast<int>(instance.state), instance.load_seconds, instance.active_requests,
        instance.waiting_requests);
    return absl::OkStatus();
  });
}

absl::Status InstancesTable::Delete(std::string_view instance_id) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params("DELETE FROM instances WHERE instance_id = $1", Text(instance_id));
    return absl::OkStatus();
  });
}

absl::Status InstancesTable::DeleteNode(std::string_view node_id) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params("DELETE FROM instances WHERE node_id = $1", Text(node_id));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<Instance>> InstancesTable::List() {
  std::vector<Instance> instances;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    instances.clear();
    for (const pqxx::row& row : transaction.exec(
             "SELECT i.instance_id, i.model_id, m.model_name, i.node_id, i.pid, i.commit, i.spec,"
             " i.devices, i.state, i.load_seconds, i.active_requests, i.waiting_requests, " +
             MicrosecondsSql("i.create_time") +
             " FROM instances i JOIN modelregistry m ON m.id = i.model_id"
             " ORDER BY m.model_name COLLATE \"C\", i.node_id, i.create_time")) {
      instances.push_back(ToInstance(row));
    }
    return absl::OkStatus();
  }));
  return instances;
}

absl::Status NodesTable::Heartbeat(const Node& node) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    transaction.exec_params(
        "INSERT INTO nodes (node_id, name, address, heartbeat_time, caches, devices)"
        " VALUES ($1, $2, $3, now(), $4::jsonb, $5::jsonb) ON CONFLICT (node_id) DO UPDATE SET"
        " name = EXCLUDED.name, address = EXCLUDED.address,"
        " heartbeat_time = EXCLUDED.heartbeat_time, caches = EXCLUDED.caches,"
        " devices = EXCLUDED.devices",
        Text(node.node_id), Text(node.name), Text(node.address), OrEmptyArray(node.caches_json),
        OrEmptyArray(node.devices_json));
    return absl::OkStatus();
  });
}

absl::StatusOr<std::vector<Node>> NodesTable::List() {
  std::vector<Node> nodes;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    nodes.clear();
    for (const pqxx::row& row :
         transaction.exec("SELECT node_id, name, address, " + MicrosecondsSql("heartbeat_time") +
                          ", caches, devices FROM nodes ORDER BY name, node_id")) {
      nodes.push_back({.node_id = row[0].as<std::string>(),
                       .name = row[1].as<std::string>(),
                       .address = row[2].as<std::string>(),
                       .heartbeat_time = Time(row[3]),
                       .caches_json = row[4].as<std::string>(),
                       .devices_json = row[5].as<std::string>()});
    }
    return absl::OkStatus();
  }));
  return nodes;
}

namespace {

// What a daemon promised that nobody has heard of for so long does not keep others waiting; when it
// comes back it reserves anew.
constexpr char kOfLivingNodes[] =
    " FROM reservations r LEFT JOIN nodes n ON n.node_id = r.node_id"
    " WHERE r.filesystem = $1 AND COALESCE(n.heartbeat_time > now() - interval '1 hour', true)";

int64_t SumOfOthers(pqxx::dbtransaction& transaction, std::string_view filesystem,
                    std::string_view except) {
  return transaction
      .exec_params1("SELECT COALESCE(sum(r.bytes), 0)::bigint" + std::string(kOfLivingNodes) +
                        " AND r.operation <> $2",
                    Text(filesystem), Text(except))[0]
      .as<int64_t>();
}

// Also when it has none.
void Delete(pqxx::dbtransaction& transaction, std::string_view operation) {
  transaction.exec_params("DELETE FROM reservations WHERE operation = $1", Text(operation));
}

}  // namespace

absl::Status ReservationsTable::Reserve(const Request& request) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    if (request.bytes <= 0) {
      Delete(transaction, request.operation);
      return absl::OkStatus();
    }
    // One at a time for a filesystem, else two would both find the space that is there once.
    transaction.exec_params("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
                            "reservations/" + Text(request.filesystem));
    const int64_t others = SumOfOthers(transaction, request.filesystem, request.operation);
    ASSIGN_OR_RETURN(const int64_t free_now, request.free_bytes());
    const int64_t free_bytes = std::max<int64_t>(0, free_now - others);
    if (request.bytes > free_bytes) {
      return InsufficientBytes(Reason::kInsufficientDisk, request.where, request.bytes, free_bytes);
    }
    // Filesystems are named anew when the machine starts.
    transaction.exec_params("DELETE FROM reservations WHERE operation = $1 AND filesystem <> $2",
                            Text(request.operation), Text(request.filesystem));
    // An operation that has ended gives nothing back any more.
    const pqxx::result rows = transaction.exec_params(
        "INSERT INTO reservations (operation, node_id, filesystem, bytes)"
        " SELECT $1::text, $2::text, $3::text, $4::bigint"
        " WHERE NOT EXISTS (SELECT FROM operations WHERE name = $1 AND state IN (4, 5, 6))"
        " ON CONFLICT (operation, node_id, filesystem) DO UPDATE SET bytes = EXCLUDED.bytes",
        Text(request.operation), Text(request.node_id), Text(request.filesystem), request.bytes);
    if (rows.affected_rows() == 0) {
      return absl::AbortedError("operation " + request.operation + " has ended");
    }
    return absl::OkStatus();
  });
}

absl::Status ReservationsTable::Shrink(std::string_view operation, int64_t bytes) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    if (bytes <= 0) {
      Delete(transaction, operation);
      return absl::OkStatus();
    }
    transaction.exec_params(
        "UPDATE reservations SET bytes = $2 WHERE operation = $1 AND bytes > $2", Text(operation),
        bytes);
    return absl::OkStatus();
  });
}

absl::Status ReservationsTable::Release(std::string_view operation) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    Delete(transaction, operation);
    return absl::OkStatus();
  });
}

absl::StatusOr<int64_t> ReservationsTable::Reserved(std::string_view filesystem,
                                                    std::string_view except) {
  int64_t bytes = 0;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    bytes = SumOfOthers(transaction, filesystem, except);
    return absl::OkStatus();
  }));
  return bytes;
}

absl::StatusOr<int64_t> ReservationsTable::ReservedByOtherModels(std::string_view filesystem,
                                                                 int64_t model_id) {
  int64_t bytes = 0;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    bytes =
        transaction
            .exec_params1("SELECT COALESCE(sum(r.bytes), 0)::bigint" + std::string(kOfLivingNodes) +
                              " AND NOT EXISTS (SELECT FROM operations o"
                              " WHERE o.name = r.operation AND o.model_id = $2)",
                          Text(filesystem), model_id)[0]
            .as<int64_t>();
    return absl::OkStatus();
  }));
  return bytes;
}

}  // namespace modeld
