// The verbs on what lies in the caches of this node: scan, adopt, verify, delete a revision, prune.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/cache/cache_scan.h"
#include "server/cache/removal.h"
#include "server/control/registry.h"
#include "server/control/tables.h"
#include "server/control/verification.h"
#include "server/core/file_filter.h"
#include "server/core/model.h"
#include "server/download/download_pool.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"

namespace modeld {

// As it comes from the caller; nothing is checked yet.
struct AdoptRequest {
  std::string model_name;
  std::string hf_path;
  std::string cache_location;  // as in RegisterRequest
  std::string cache_path;
  std::string revision;  // empty: "main" or, without it, the only snapshot
  bool trust_remote_code = false;
  FileFilter filter;
  std::string token_credential;  // as in RegisterRequest
};

struct VerifyRequest {
  std::string model_name;
  std::string revision;  // a commit or a ref of the cache; empty: the row's commit
  bool repair = false;
};

struct PruneRequest {
  std::string cache_path;  // empty: the primary
  std::string hf_path;     // empty: all models
  bool dry_run = false;
  bool detached_revisions = false;
  std::optional<std::chrono::seconds> older_than;  // none: PruneOptions' default
};

struct DeletedRevision {
  std::string commit;
  Removal removal;
};

// A cache, and which models have its repositories.
struct ScannedCache {
  CacheScan scan;
  std::map<std::string, std::string> model_names;  // by repository id
};

// Thread-safe. Every method may block on the database and returns DATABASE_UNAVAILABLE when that is
// away, and reads the disk for as long as that takes.
class Caches {
 public:
  struct Options {
    std::string node_id;
    std::chrono::milliseconds hub_patience{5'000};
    int verifications_max = 2;  // at a time
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    HubClient& hub;
    Engines& engines;
    DownloadPool& pool;
  };

  Caches(const Options& options, const Parts& parts) : options_(options), parts_(parts) {}

  // One cache, or with an empty path primary, secondary and each custom path that a model has; one
  // repository or all. INVALID_FIELD (cache_path, hf_path).
  absl::StatusOr<std::vector<ScannedCache>> Scan(const std::string& cache_path,
                                                 const std::string& hf_path);

  // INVALID_FIELD, MODEL_ALREADY_EXISTS, INVALID_REPOSITORY. The hub is asked for its listing only
  // when the cache has none, and need not answer.
  absl::StatusOr<ModelView> Adopt(const AdoptRequest& request, std::stop_token stop);

  // Blocks until the last file is settled. As VerifySnapshot(), and MODEL_NOT_FOUND, INVALID_FIELD
  // (revision), QUEUE_FULL.
  absl::Status Verify(const VerifyRequest& request, const OnVerified& on_event,
                      std::stop_token stop);

  // MODEL_NOT_FOUND, INVALID_FIELD (revision), MODEL_IN_USE, CACHE_NOT_WRITABLE.
  absl::StatusOr<DeletedRevision> DeleteRevision(const std::string& model_name,
                                                 const std::string& revision, bool dry_run);

  // INVALID_FIELD, CACHE_NOT_WRITABLE.
  absl::StatusOr<Removal> Prune(const PruneRequest& request);

 private:
  struct Adopted;
  // The commit that `revision` names in the cache of `model`; INVALID_FIELD (revision).
  absl::StatusOr<std::string> CommitOf(const Model& model, const std::string& revision) const;
  absl::Status CheckRevisionUnused(const Model& model, const std::string& commit);
  absl::StatusOr<Adopted> Examine(const Model& model, std::stop_token stop);
  std::optional<RepoListing> ListingOf(const Model& model, const std::string& commit,
                                       std::stop_token stop);

  const Options options_;
  const Parts parts_;
  std::atomic<int> verifications_ = 0;
};

}  // namespace modeld
