#include "server/store/models_table.h"

#include <algorithm>

#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/store/columns.h"

namespace modeld {
namespace {

// The columns of a Model in the order of ToModel(). The predecessor's may be NULL.
std::string Columns() {
  return "m.id, m.model_name, m.hf_path, COALESCE(m.revision, 'main'), m.commit,"
         " COALESCE(m.trust_remote_code, false), COALESCE(m.cache_location, 'primary'),"
         " COALESCE(m.cache_path, ''), m.snapshot_path, m.estimated_size_bytes, m.size_bytes,"
         " m.allow_patterns, m.ignore_patterns, COALESCE(m.inspection::text, ''), " +
         MicrosecondsSql("m.create_time") + ", " + MicrosecondsSql("m.update_time") +
         ", m.token_credential";
}
constexpr pqxx::row::size_type kColumnCount = 17;

// A location that another program invented must not hide the row: its path is what counts.
CacheLocation LocationOf(const std::string& name, const std::string& cache_path) {
  const absl::StatusOr<CacheLocation> location = ParseCacheLocation(name);
  if (location.ok()) return *location;
  return cache_path.empty() ? CacheLocation::kPrimary : CacheLocation::kCustom;
}

Model ToModel(const pqxx::row& row) {
  Model model;
  model.id = row[0].as<int64_t>();
  model.model_name = row[1].as<std::string>();
  model.hf_path = row[2].as<std::string>();
  model.revision = row[3].as<std::string>();
  model.commit = row[4].as<std::string>("");
  model.trust_remote_code = row[5].as<bool>();
  model.cache_path = row[7].as<std::string>();
  model.cache_location = LocationOf(row[6].as<std::string>(), model.cache_path);
  model.snapshot_path = row[8].as<std::string>("");
  model.estimated_size_bytes = row[9].as<int64_t>(0);
  model.size_bytes = row[10].as<int64_t>(0);
  model.filter.allow_patterns = PatternsFromJson(row[11].as<std::string>("[]"));
  model.filter.ignore_patterns = PatternsFromJson(row[12].as<std::string>("[]"));
  model.inspection_json = row[13].as<std::string>();
  model.create_time = Time(row[14]);
  model.update_time = Time(row[15]);
  model.token_credential = row[16].as<std::string>();
  return model;
}

// What a model's state follows from (core/model.h), each fact as one column. A download, and the
// download part of a load, counts from its request until it is done, also while it waits to be
// tried again.
constexpr char kFactColumns[] =
    " EXISTS (SELECT FROM instances i WHERE i.model_id = m.id AND i.state = 2),"
    " EXISTS (SELECT FROM instances i WHERE i.model_id = m.id AND i.state = 1),"
    " EXISTS (SELECT FROM operations o WHERE o.model_id = m.id AND o.state IN (1, 2, 3)"
    "   AND (o.kind = 1 OR (o.kind = 2 AND (o.state = 3 OR o.phase IN (2, 3))))),"
    " COALESCE(last.state = 5, false),"
    " EXISTS (SELECT FROM copies c WHERE c.model_id = m.id AND c.complete"
    "   AND c.commit = m.commit),"
    " COALESCE(last.error::text, '')";
constexpr char kFactTables[] =
    " FROM modelregistry m LEFT JOIN LATERAL (SELECT o.state, o.error FROM operations o"
    "   WHERE o.model_id = m.id AND o.state IN (4, 5, 6)"
    "   ORDER BY o.end_time DESC, o.id DESC LIMIT 1) last ON true ";

std::string SelectViews() { return "SELECT " + Columns() + "," + kFactColumns + kFactTables; }

ModelView ToView(const pqxx::row& row) {
  const auto fact = [&](int i) {
    return row[kColumnCount + static_cast<pqxx::row::size_type>(i)].as<bool>();
  };
  ModelView view;
  view.model = ToModel(row);
  view.state = ComputeModelState({.instance_ready = fact(0),
                                  .instance_loading = fact(1),
                                  .download_active = fact(2),
                                  .last_operation_failed = fact(3),
                                  .copy_complete = fact(4)});
  if (view.state == ModelState::kFailed) {
    const std::string error = row[kColumnCount + 5].as<std::string>();
    view.error =
        error.empty() ? absl::InternalError("the last operation failed") : StatusFromJson(error);
  }
  return view;
}

absl::Status NoModelWithId(int64_t id) {
  return Error(Reason::kModelNotFound, "no model has the id " + std::to_string(id));
}

// Writes everything of `model` but its identity and times. A location or path that the change left
// alone keeps its text, so that NULLs and words of another program survive.
Model WriteRow(pqxx::dbtransaction& transaction, const Model& before, const Model& model) {
  const bool moved = model.cache_location != before.cache_location;
  const bool new_path = model.cache_path != before.cache_path;
  const pqxx::row row = transaction.exec_params1(
      "UPDATE modelregistry m SET hf_path = $2, revision = $3, commit = $4,"
      " trust_remote_code = $5, cache_location = CASE WHEN $6 THEN $7 ELSE m.cache_location END,"
      " cache_path = CASE WHEN $8 THEN NULLIF($9, '') ELSE m.cache_path END,"
      " snapshot_path = $10, estimated_size_bytes = $11, size_bytes = $12,"
      " allow_patterns = $13::jsonb, ignore_patterns = $14::jsonb,"
      " inspection = NULLIF($15, '')::jsonb, token_credential = $16, update_time = now()"
      " WHERE m.id = $1 RETURNING " +
          Columns(),
      before.id, Text(model.hf_path), Text(model.revision), Text(model.commit),
      model.trust_remote_code, moved, std::string(CacheLocationName(model.cache_location)),
      new_path, Text(model.cache_path), Text(model.snapshot_path), model.estimated_size_bytes,
      model.size_bytes, PatternsJson(model.filter.allow_patterns),
      PatternsJson(model.filter.ignore_patterns), JsonbText(model.inspection_json),
      Text(model.token_credential));
  return ToModel(row);
}

}  // namespace

absl::StatusOr<Model> ModelsTable::Insert(const Model& model) {
  Model inserted;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows = transaction.exec_params(
        "INSERT INTO modelregistry AS m (model_name, hf_path, revision, commit,"
        " trust_remote_code, cache_location, cache_path, snapshot_path, estimated_size_bytes,"
        " size_bytes, allow_patterns, ignore_patterns, inspection, token_credential)"
        " VALUES ($1, $2, $3, $4, $5, $6, NULLIF($7, ''), $8, $9, $10, $11::jsonb, $12::jsonb,"
        " NULLIF($13, '')::jsonb, $14) ON CONFLICT (model_name) DO NOTHING RETURNING " +
            Columns(),
        Text(model.model_name), Text(model.hf_path), Text(model.revision), Text(model.commit),
        model.trust_remote_code, std::string(CacheLocationName(model.cache_location)),
        Text(model.cache_path), Text(model.snapshot_path), model.estimated_size_bytes,
        model.size_bytes, PatternsJson(model.filter.allow_patterns),
        PatternsJson(model.filter.ignore_patterns), JsonbText(model.inspection_json),
        Text(model.token_credential));
    if (rows.empty()) {
      return Error(Reason::kModelAlreadyExists,
                   "a model is named \"" + model.model_name + "\" already",
                   {{"model_name", model.model_name}});
    }
    inserted = ToModel(rows[0]);
    return absl::OkStatus();
  }));
  return inserted;
}

absl::StatusOr<Model> ModelsTable::Get(std::string_view model_name) {
  Model model;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows = transaction.exec_params(
        "SELECT " + Columns() + " FROM modelregistry m WHERE m.model_name = $1", Text(model_name));
    if (rows.empty()) return ModelNotFound(model_name);
    model = ToModel(rows[0]);
    return absl::OkStatus();
  }));
  return model;
}

absl::StatusOr<Model> ModelsTable::GetById(int64_t id) {
  Model model;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows = transaction.exec_params(
        "SELECT " + Columns() + " FROM modelregistry m WHERE m.id = $1", id);
    if (rows.empty()) return NoModelWithId(id);
    model = ToModel(rows[0]);
    return absl::OkStatus();
  }));
  return model;
}

absl::StatusOr<Model> ModelsTable::Update(std::string_view model_name,
                                          const std::function<absl::Status(Model&)>& change) {
  Model updated;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows = transaction.exec_params(
        "SELECT " + Columns() + " FROM modelregistry m WHERE m.model_name = $1 FOR NO KEY UPDATE",
        Text(model_name));
    if (rows.empty()) return ModelNotFound(model_name);
    const Model before = ToModel(rows[0]);
    Model model = before;
    RETURN_IF_ERROR(change(model));
    updated = WriteRow(transaction, before, model);
    return absl::OkStatus();
  }));
  return updated;
}

absl::Status ModelsTable::SetSnapshot(int64_t id, std::string_view revision,
                                      std::string_view commit, std::string_view snapshot_path,
                                      int64_t size_bytes) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    // What was inspected is of one commit.
    const pqxx::result rows = transaction.exec_params(
        "UPDATE modelregistry SET revision = $2, snapshot_path = $4, size_bytes = $5,"
        " inspection = CASE WHEN commit = $3 THEN inspection END, commit = $3, update_time = now()"
        " WHERE id = $1",
        id, Text(revision), Text(commit), Text(snapshot_path), size_bytes);
    return rows.affected_rows() == 1 ? absl::OkStatus() : NoModelWithId(id);
  });
}

absl::Status ModelsTable::SetResolved(int64_t id, std::string_view commit,
                                      std::string_view inspection_json,
                                      int64_t estimated_size_bytes) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    // An estimate of 0 and an empty inspection say nothing new.
    const pqxx::result rows = transaction.exec_params(
        "UPDATE modelregistry SET"
        " inspection = COALESCE(NULLIF($3, '')::jsonb, CASE WHEN commit = $2 THEN inspection END),"
        " size_bytes = CASE WHEN commit = $2 THEN size_bytes ELSE 0 END,"
        " estimated_size_bytes = CASE WHEN $4::bigint > 0 THEN $4 ELSE estimated_size_bytes END,"
        " commit = $2, update_time = now() WHERE id = $1",
        id, Text(commit), JsonbText(inspection_json), estimated_size_bytes);
    return rows.affected_rows() == 1 ? absl::OkStatus() : NoModelWithId(id);
  });
}

absl::Status ModelsTable::Delete(std::string_view model_name) {
  return database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows = transaction.exec_params(
        "SELECT id FROM modelregistry WHERE model_name = $1 FOR UPDATE", Text(model_name));
    if (rows.empty()) return ModelNotFound(model_name);
    const int64_t id = rows[0][0].as<int64_t>();
    const std::string quoted = "\"" + std::string(model_name) + "\"";

    const pqxx::result instances = transaction.exec_params(
        "SELECT instance_id, node_id FROM instances WHERE model_id = $1 LIMIT 1", id);
    if (!instances.empty()) {
      return Error(Reason::kModelInUse,
                   "model " + quoted + " is loaded on node " + instances[0][1].as<std::string>(),
                   {{"instance", instances[0][0].as<std::string>()}});
    }
    const pqxx::result operations = transaction.exec_params(
        "SELECT name FROM operations WHERE model_id = $1 AND state IN (1, 2, 3) LIMIT 1", id);
    if (!operations.empty()) {
      const std::string operation = operations[0][0].as<std::string>();
      return Error(Reason::kModelInUse, "model " + quoted + " is in operation " + operation,
                   {{"operation", operation}});
    }
    transaction.exec_params("DELETE FROM modelregistry WHERE id = $1", id);
    return absl::OkStatus();
  });
}

absl::StatusOr<ModelView> ModelsTable::GetView(std::string_view model_name) {
  ModelView view;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    const pqxx::result rows =
        transaction.exec_params(SelectViews() + "WHERE m.model_name = $1", Text(model_name));
    if (rows.empty()) return ModelNotFound(model_name);
    view = ToView(rows[0]);
    return absl::OkStatus();
  }));
  return view;
}

absl::StatusOr<std::vector<ModelView>> ModelsTable::ListViews(std::string_view after, int64_t limit,
                                                              std::optional<ModelState> state) {
  // The rule of the state stands in core alone, so that a filter reads on until the page is full.
  const int64_t batch = state ? std::max<int64_t>(limit, 200) : limit;
  std::vector<ModelView> views;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    views.clear();
    std::string cursor = Text(after);
    while (std::ssize(views) < limit) {
      const pqxx::result rows =
          transaction.exec_params(SelectViews() +
                                      "WHERE m.model_name COLLATE \"C\" > $1"
                                      " ORDER BY m.model_name COLLATE \"C\" LIMIT $2",
                                  cursor, batch);
      for (const pqxx::row& row : rows) {
        ModelView view = ToView(row);
        cursor = view.model.model_name;
        if (state && view.state != *state) continue;
        views.push_back(std::move(view));
        if (std::ssize(views) == limit) break;
      }
      if (static_cast<int64_t>(rows.size()) < batch) break;
    }
    return absl::OkStatus();
  }));
  return views;
}

absl::StatusOr<std::vector<Model>> ModelsTable::ListByRepo(std::string_view cache_path,
                                                           std::string_view hf_path) {
  std::vector<Model> models;
  RETURN_IF_ERROR(database_.Transact([&](pqxx::dbtransaction& transaction) -> absl::Status {
    models.clear();
    for (const pqxx::row& row : transaction.exec_params(
             "SELECT " + Columns() +
                 " FROM modelregistry m"
                 " WHERE COALESCE(m.cache_path, '') = $1 AND m.hf_path = $2 ORDER BY m.id",
             Text(cache_path), Text(hf_path))) {
      models.push_back(ToModel(row));
    }
    return absl::OkStatus();
  }));
  return models;
}

}  // namespace modeld
