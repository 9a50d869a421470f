// The table modelregistry, and the view of a model over all tables.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/model.h"
#include "server/store/database.h"

namespace modeld {

// Thread-safe. Every method: DATABASE_UNAVAILABLE. Every change sends NOTIFY (listener.h).
class ModelsTable {
 public:
  explicit ModelsTable(Database& database) : database_(database) {}

  // Makes a row of `model` (id and times are the database's). MODEL_ALREADY_EXISTS.
  absl::StatusOr<Model> Insert(const Model& model);
  // MODEL_NOT_FOUND.
  absl::StatusOr<Model> Get(std::string_view model_name);
  absl::StatusOr<Model> GetById(int64_t id);
  // Runs `change` on the row, locked, and writes what it left: trust_remote_code, revision,
  // patterns, hf_path, location, sizes, inspection, token_credential. An error from `change` is
  // handed on. Gives the new row. MODEL_NOT_FOUND.
  absl::StatusOr<Model> Update(std::string_view model_name,
                               const std::function<absl::Status(Model&)>& change);
  // Moves the row to a complete snapshot.
  absl::Status SetSnapshot(int64_t id, std::string_view revision, std::string_view commit,
                           std::string_view snapshot_path, int64_t size_bytes);
  // Keeps what the hub says of a commit that is not complete yet: commit, inspection, estimate.
  absl::Status SetResolved(int64_t id, std::string_view commit, std::string_view inspection_json,
                           int64_t estimated_size_bytes);
  // Removes the row and what hangs on it (loads, copies; operations stay readable by name).
  // MODEL_IN_USE when an instance or an operation that is not final has it on any node;
  // MODEL_NOT_FOUND.
  absl::Status Delete(std::string_view model_name);

  // The row with its computed state and error (contract: first match wins).
  absl::StatusOr<ModelView> GetView(std::string_view model_name);
  // In order of model_name, those after `after`, at most `limit`, only in `state` when given.
  absl::StatusOr<std::vector<ModelView>> ListViews(std::string_view after, int64_t limit,
                                                   std::optional<ModelState> state);
  // Rows below one cache path and repository, to know which blobs are still needed.
  absl::StatusOr<std::vector<Model>> ListByRepo(std::string_view cache_path,
                                                std::string_view hf_path);

 private:
  Database& database_;
};

}  // namespace modeld
