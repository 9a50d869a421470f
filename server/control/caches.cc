#include "server/control/caches.h"

#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "server/base/log.h"
#include "server/base/status.h"
#include "server/cache/repo_cache.h"
#include "server/core/reason.h"
#include "server/core/repo.h"

namespace modeld {
namespace {

bool IsFolder(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

// The verifications that run, counted while this lives.
class Turn {
 public:
  Turn(std::atomic<int>& running, int max) : running_(running), had_(++running <= max) {}
  ~Turn() { --running_; }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  bool had() const { return had_; }

 private:
  std::atomic<int>& running_;
  const bool had_;
};

}  // namespace

absl::StatusOr<std::vector<ScannedCache>> Caches::Scan(const std::string& cache_path,
                                                       const std::string& hf_path) {
  if (!hf_path.empty()) RETURN_IF_ERROR(ValidateRepoId(hf_path));
  ASSIGN_OR_RETURN(const std::vector<ModelView> views, parts_.registry.ListAll());
  std::vector<std::string> paths;
  if (!cache_path.empty()) {
    ASSIGN_OR_RETURN(const CachePlace place, parts_.registry.PlaceOfPath(cache_path));
    paths.push_back(place.cache_path);
  } else {
    for (const NamedCache& cache : parts_.registry.ConfiguredRoom()) {
      paths.push_back(cache.summary.cache_path);
    }
    std::set<std::string> seen(paths.begin(), paths.end());
    for (const ModelView& view : views) {
      if (seen.insert(view.model.cache_path).second) paths.push_back(view.model.cache_path);
    }
  }
  std::vector<ScannedCache> caches;
  for (const std::string& path : paths) {
    ScannedCache& cache = caches.emplace_back();
    ASSIGN_OR_RETURN(cache.scan, ScanCache(path, hf_path));
    for (const ModelView& view : views) {
      if (view.model.cache_path != path) continue;
      cache.model_names.emplace(view.model.hf_path, view.model.model_name);
    }
  }
  return caches;
}

absl::StatusOr<std::string> Caches::CommitOf(const Model& model,
                                             const std::string& revision) const {
  const std::string cache_path = parts_.registry.CachePathOf(model);
  const RepoCache cache(cache_path, model.hf_path);
  RETURN_IF_ERROR(ValidateRevision(revision));
  std::string commit = revision;
  if (!IsCommit(revision)) {
    const absl::StatusOr<std::string> named = cache.ReadRef(revision);
    if (!named.ok() && !absl::IsNotFound(named.status())) return named.status();
    commit = named.value_or("");
  }
  if (!commit.empty() && IsFolder(cache.SnapshotPath(commit))) return commit;
  return InvalidField("revision", "the cache " + cache_path + " has no snapshot of " +
                                      model.hf_path + " at " + revision);
}

absl::Status Caches::Verify(const VerifyRequest& request, const OnVerified& on_event,
                            std::stop_token stop) {
  RETURN_IF_ERROR(ValidateModelName(request.model_name));
  const Turn turn(verifications_, options_.verifications_max);
  if (!turn.had()) {
    return Unavailable(Reason::kQueueFull,
                       std::to_string(options_.verifications_max) + " verifications run already",
                       std::chrono::seconds(10));
  }
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(request.model_name));
  std::string revision = request.revision.empty() ? model.commit : request.revision;
  if (revision.empty()) revision = model.revision;
  VerifyJob job;
  ASSIGN_OR_RETURN(job.commit, CommitOf(model, revision));
  job.model_name = model.model_name;
  job.cache_name = parts_.registry.CacheLabelOf(model);
  job.cache_path = parts_.registry.CachePathOf(model);
  job.repo_id = model.hf_path;
  job.token_credential = model.token_credential;
  job.filter = model.filter;
  job.listing = ListingOf(model, job.commit, stop);
  job.repair = request.repair;
  if (request.repair) {
    RETURN_IF_ERROR(parts_.registry.CheckPath(job.cache_path, model.cache_location));
  }
  const absl::Status status = VerifySnapshot(job, parts_.hub, parts_.pool, on_event, stop);
  LogInfo("model_verified",
          {{"model", model.model_name}, {"commit", job.commit}, {"status", status}});
  return status;
}

absl::Status Caches::CheckRevisionUnused(const Model& model, const std::string& commit) {
  const std::string cache_path = parts_.registry.CachePathOf(model);
  ASSIGN_OR_RETURN(const std::vector<Instance> instances, parts_.tables.instances.List());
  for (const Instance& instance : instances) {
    if (instance.model_id != model.id || instance.commit != commit) continue;
    return Error(Reason::kModelInUse,
                 "model \"" + model.model_name + "\" is loaded from commit " + commit,
                 {{"instance", instance.instance_id}});
  }
  ASSIGN_OR_RETURN(const RepoNeeds all, parts_.registry.NeedsOf(cache_path, model.hf_path, 0));
  if (all.has_operation) {
    return Error(Reason::kModelInUse,
                 "an operation of " + model.hf_path + " in " + cache_path + " goes on");
  }
  ASSIGN_OR_RETURN(const RepoNeeds others,
                   parts_.registry.NeedsOf(cache_path, model.hf_path, model.id));
  if (const auto other = others.commits.find(commit); other != others.commits.end()) {
    return Error(Reason::kModelInUse,
                 "commit " + commit + " is that of model \"" + other->second + "\" too",
                 {{"model_name", other->second}});
  }
  return absl::OkStatus();
}

absl::StatusOr<DeletedRevision> Caches::DeleteRevision(const std::string& model_name,
                                                       const std::string& revision, bool dry_run) {
  RETURN_IF_ERROR(ValidateModelName(model_name));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(model_name));
  DeletedRevision deleted;
  ASSIGN_OR_RETURN(deleted.commit, CommitOf(model, revision));
  RETURN_IF_ERROR(CheckRevisionUnused(model, deleted.commit));
  const std::string cache_path = parts_.registry.CachePathOf(model);
  const RepoCache cache(cache_path, model.hf_path);
  if (!dry_run) {
    RETURN_IF_ERROR(cache.CheckWritable());
    // The rows first: nothing is believed to be there that is not.
    RETURN_IF_ERROR(
        parts_.tables.copies.DeleteCommit(options_.node_id, cache_path, deleted.commit));
    const auto forget = [&](Model& row) {
      if (row.commit != deleted.commit) return absl::OkStatus();
      row.snapshot_path.clear();
      row.size_bytes = 0;
      return absl::OkStatus();
    };
    RETURN_IF_ERROR(parts_.tables.models.Update(model_name, forget).status());
  }
  ASSIGN_OR_RETURN(deleted.removal, cache.DeleteRevision(deleted.commit, {.dry_run = dry_run}));
  if (!dry_run) {
    LogInfo("revision_deleted", {{"model", model_name},
                                 {"commit", deleted.commit},
                                 {"freed_bytes", deleted.removal.freed_bytes()}});
  }
  return deleted;
}

absl::StatusOr<Removal> Caches::Prune(const PruneRequest& request) {
  ASSIGN_OR_RETURN(const CachePlace place, parts_.registry.PlaceOfPath(request.cache_path));
  if (!request.hf_path.empty()) RETURN_IF_ERROR(ValidateRepoId(request.hf_path));
  PruneOptions options;
  options.dry_run = request.dry_run;
  options.detached_revisions = request.detached_revisions;
  options.older_than = request.older_than.value_or(options.older_than);
  if (options.older_than.count() < 0) return InvalidField("older_than", "is below 0");
  ASSIGN_OR_RETURN(const std::vector<std::string> repositories, ModelsIn(place.cache_path));
  Removal removal;
  for (const std::string& repository : repositories) {
    if (!request.hf_path.empty() && repository != request.hf_path) continue;
    ASSIGN_OR_RETURN(const RepoNeeds needs,
                     parts_.registry.NeedsOf(place.cache_path, repository, 0));
    // What goes on now may need what nothing links yet.
    options.keep_parts = needs.has_operation;
    options.keep_revisions.clear();
    for (const auto& [commit, model_name] : needs.commits) options.keep_revisions.insert(commit);
    PruneOptions of_this = options;
    of_this.detached_revisions &= !needs.has_operation;
    ASSIGN_OR_RETURN(const Removal one, RepoCache(place.cache_path, repository).Prune(of_this));
    removal.Add(one);
  }
  if (!request.dry_run) {
    LogInfo("cache_pruned", {{"cache", place.cache_path},
                             {"entries", removal.entries.size()},
                             {"freed_bytes", removal.freed_bytes()}});
  }
  return removal;
}

}  // namespace modeld
