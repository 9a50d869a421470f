// The verbs on models: register, read, change, delete, and the room that they need.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/cache/space.h"
#include "server/control/tables.h"
#include "server/core/cache_location.h"
#include "server/core/file_filter.h"
#include "server/core/model.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"

namespace modeld {

// As it comes from the caller; nothing is checked yet.
struct RegisterRequest {
  std::string model_name;
  std::string hf_path;
  std::string revision;  // empty: "main"
  bool trust_remote_code = false;
  std::string cache_location;     // "primary" (also when empty), "secondary", "custom"
  std::string cache_path;         // with "custom" only
  int64_t estimated_size_mb = 0;  // 10^6 bytes; 0: not known
  FileFilter filter;
  std::string token_credential;  // empty: the daemon's own token
};

struct RegisteredModel {
  ModelView view;
  SpaceCheck space;
};

// The fields that `mask` names are taken from here. Names: trust_remote_code, revision,
// allow_patterns, ignore_patterns, estimated_size_bytes, token_credential; hf_path, cache_location,
// cache_path.
struct ModelUpdate {
  std::string model_name;
  std::vector<std::string> mask;
  bool trust_remote_code = false;
  std::string revision;
  FileFilter filter;
  std::string hf_path;
  std::string cache_location;
  std::string cache_path;
  int64_t estimated_size_bytes = 0;  // 0 to 10^18
  std::string token_credential;
};

struct SpaceRequest {
  std::string cache_location;  // as in RegisterRequest
  std::string cache_path;
  std::string hf_path;   // empty: only the estimate counts
  std::string revision;  // empty: "main"
  int64_t estimated_size_mb = 0;
  std::string token_credential;  // as in RegisterRequest
};

struct ModelsPage {
  std::vector<ModelView> models;
  std::string next_page_token;  // empty on the last page, and only there
};

// A cache and which kind of location it is.
struct CachePlace {
  CacheLocation location = CacheLocation::kPrimary;
  std::string cache_path;
};

// What the rows need of one repository in one cache.
struct RepoNeeds {
  std::map<std::string, std::string> commits;  // and the model that has it
  bool has_operation = false;                  // one that is not final goes on with its part files
};

struct NamedCache {
  std::string name;  // "primary", "secondary", "custom"
  CacheSummary summary;
};

// Thread-safe. Every method may block on the database, and returns DATABASE_UNAVAILABLE when that
// is away; Register() and CheckSpace() also ask the hub, for at most 5 s, and Register() reads
// there for 5 s more.
class Registry {
 public:
  struct Options {
    CacheRoots roots;
    bool require_mount = false;  // refuse a cache path on the root filesystem
    std::string node_id;
    std::chrono::milliseconds hub_patience{5'000};
  };
  struct Parts {
    Tables& tables;
    HubClient& hub;
    Engines& engines;
    Metrics& metrics;
  };

  Registry(const Options& options, const Parts& parts) : options_(options), parts_(parts) {}

  // INVALID_FIELD, MODEL_ALREADY_EXISTS, INSUFFICIENT_DISK (nothing is written), CACHE_NOT_WRITABLE
  // and the hub's HUB_REPO_NOT_FOUND, HUB_REVISION_NOT_FOUND, HUB_ACCESS_DENIED. A hub that cannot
  // be reached in time is no error: the estimate counts.
  absl::StatusOr<RegisteredModel> Register(const RegisterRequest& request, std::stop_token stop);

  // MODEL_NOT_FOUND. The views' cache_path is never empty, also for rows of the predecessor.
  absl::StatusOr<ModelView> Get(const std::string& model_name);

  // In order of model_name; only in `state` unless that is kUnspecified. INVALID_FIELD (page_size,
  // page_token).
  absl::StatusOr<ModelsPage> List(int64_t page_size, const std::string& page_token,
                                  ModelState state);
  // All of them; for watching.
  absl::StatusOr<std::vector<ModelView>> ListAll();

  // MODEL_NOT_FOUND, INVALID_FIELD (update_mask or the field), MODEL_IN_USE for hf_path and
  // location while there is a copy or an operation.
  absl::StatusOr<ModelView> Update(const ModelUpdate& update);

  // Gives the bytes freed on this node. MODEL_IN_USE, MODEL_NOT_FOUND. With `delete_files` what
  // another row or snapshot needs stays.
  absl::StatusOr<int64_t> Delete(const std::string& model_name, bool delete_files);

  absl::StatusOr<SpaceCheck> CheckSpace(const SpaceRequest& request, std::stop_token stop);

  // primary, secondary when configured, and each custom path that a model has.
  absl::StatusOr<std::vector<NamedCache>> ListCaches();

  // primary and secondary, without asking the database.
  std::vector<NamedCache> ConfiguredCaches() const;
  // The same without a look at what lies in them: used_bytes and repositories are 0.
  std::vector<NamedCache> ConfiguredRoom() const;

  // The place that a request means. INVALID_FIELD (cache_location, cache_path) as RegisterModel.
  absl::StatusOr<CachePlace> PlaceOf(const std::string& location,
                                     const std::string& cache_path) const;
  // The place of a path alone, empty: the primary; INVALID_FIELD (cache_path) unless it is one of
  // this node.
  absl::StatusOr<CachePlace> PlaceOfPath(const std::string& cache_path) const;
  // Needs of all rows but the model with the id `except` (0: none).
  absl::StatusOr<RepoNeeds> NeedsOf(const std::string& cache_path, const std::string& hf_path,
                                    int64_t except);

  // The folder that has hub/ in it; the row's, and the primary for rows that have none.
  std::string CachePathOf(const Model& model) const;
  // The same as a metric label: "primary", "secondary", or the path of a custom one.
  std::string CacheLabelOf(const Model& model) const;
  // Whether it may be written to now: CACHE_NOT_WRITABLE when require_mount is set and it is on the
  // root filesystem, INVALID_FIELD when a symlink leads a custom path out of its root.
  absl::Status CheckPath(const std::string& cache_path, CacheLocation location) const;

 private:
  struct Sizing;
  absl::StatusOr<Sizing> AskHub(const Model& model, std::stop_token stop);
  absl::StatusOr<SpaceCheck> SpaceFor(const std::string& cache_path, int64_t required_bytes);
  absl::StatusOr<Model> ToModel(const RegisterRequest& request) const;
  absl::Status ApplyUpdate(const ModelUpdate& update, Model& model) const;
  absl::Status CheckNotUsed(const std::string& model_name);
  absl::StatusOr<int64_t> DeleteFiles(const Model& model, const std::vector<Copy>& copies);
  ModelView Shown(ModelView view) const;

  const Options options_;
  const Parts parts_;
};

}  // namespace modeld
