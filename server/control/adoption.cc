// The part of Caches that takes over what others downloaded.
#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "server/base/log.h"
#include "server/base/status.h"
#include "server/cache/repo_cache.h"
#include "server/control/caches.h"
#include "server/control/local_files.h"
#include "server/control/preflight.h"
#include "server/core/reason.h"
#include "server/core/repo.h"

namespace modeld {
namespace {

constexpr char kDefaultRevision[] = "main";

// The only snapshot of a repository, when there is just one.
std::string OnlySnapshot(const RepoCache& cache) {
  std::string only;
  std::error_code error;
  const std::filesystem::path snapshots = cache.repo_path() + "/snapshots";
  for (std::filesystem::directory_iterator it(snapshots, error), end; !error && it != end;
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!IsCommit(name)) continue;
    if (!only.empty()) return "";
    only = name;
  }
  return only;
}

}  // namespace

// What lies in the snapshot of a model's commit.
struct Caches::Adopted {
  bool complete = false;
  int64_t size_bytes = 0;  // of the wanted files
  std::string inspection_json;
};

std::optional<RepoListing> Caches::ListingOf(const Model& model, const std::string& commit,
                                             std::stop_token stop) {
  const RepoCache cache(parts_.registry.CachePathOf(model), model.hf_path);
  absl::StatusOr<RepoListing> listing = cache.ReadTree(commit);
  if (listing.ok()) return *std::move(listing);
  const HubClient::Patience patience{.deadline = options_.hub_patience, .retry = false};
  listing = parts_.hub.ListFiles({model.hf_path, model.token_credential}, commit, patience, stop);
  if (listing.ok()) return *std::move(listing);
  LogInfo("listing_not_had", {{"repo", model.hf_path}, {"error", listing.status()}});
  return std::nullopt;
}

absl::StatusOr<Caches::Adopted> Caches::Examine(const Model& model, std::stop_token stop) {
  const RepoCache cache(model.cache_path, model.hf_path);
  const std::string snapshot = cache.SnapshotPath(model.commit);
  const auto there = ListFolder(snapshot);
  if (!there.ok()) {
    return Error(Reason::kInvalidRepository,
                 "the snapshot cannot be read: " + std::string(there.status().message()),
                 {{"snapshot_path", snapshot}});
  }
  const std::optional<RepoListing> listing = ListingOf(model, model.commit, stop);
  const std::vector<RepoFile> wanted = model.filter.Apply(listing ? listing->files : *there);
  const auto is_there = [&](const RepoFile& file) {
    return cache.HasInSnapshot(model.commit, file);
  };
  Adopted adopted;
  adopted.complete = !wanted.empty() && std::ranges::all_of(wanted, is_there);
  adopted.size_bytes = TotalBytes(wanted);
  const auto inspection = InspectFiles(parts_.engines,
                                       {.files = wanted,
                                        .trust_remote_code = model.trust_remote_code,
                                        .heads = adopted.complete ? Heads::kAll : Heads::kNo},
                                       FolderReader(snapshot), stop);
  if (inspection.ok()) {
    adopted.inspection_json = InspectionToJson(*inspection);
  } else {
    LogInfo("model_not_inspected", {{"model", model.model_name}, {"error", inspection.status()}});
  }
  // Without a listing only an engine knows whether something is missing.
  if (!listing) {
    adopted.complete &= inspection.ok() && inspection->supported &&
                        !inspection->weight_files.empty() && inspection->parameters > 0;
  }
  return adopted;
}

absl::StatusOr<ModelView> Caches::Adopt(const AdoptRequest& request, std::stop_token stop) {
  RETURN_IF_ERROR(ValidateModelName(request.model_name));
  RETURN_IF_ERROR(ValidateRepoId(request.hf_path));
  RETURN_IF_ERROR(ValidateFileFilter(request.filter));
  RETURN_IF_ERROR(ValidateTokenCredential(request.token_credential));
  Model model;
  model.model_name = request.model_name;
  model.hf_path = request.hf_path;
  model.revision = request.revision.empty() ? kDefaultRevision : request.revision;
  model.trust_remote_code = request.trust_remote_code;
  model.filter = request.filter;
  model.token_credential = request.token_credential;
  RETURN_IF_ERROR(ValidateRevision(model.revision));
  ASSIGN_OR_RETURN(const CachePlace place,
                   parts_.registry.PlaceOf(request.cache_location, request.cache_path));
  model.cache_location = place.location;
  model.cache_path = place.cache_path;

  const RepoCache cache(model.cache_path, model.hf_path);
  std::error_code error;
  if (!std::filesystem::is_directory(cache.repo_path(), error)) {
    return InvalidField("hf_path", model.hf_path + " is not in the cache " + model.cache_path);
  }
  absl::StatusOr<std::string> commit = CommitOf(model, model.revision);
  if (!commit.ok() && request.revision.empty()) {
    if (const std::string only = OnlySnapshot(cache); !only.empty()) {
      model.revision = only;
      commit = only;
    }
  }
  RETURN_IF_ERROR(commit.status());
  model.commit = *commit;

  ASSIGN_OR_RETURN(const Adopted adopted, Examine(model, stop));
  model.estimated_size_bytes = adopted.size_bytes;
  model.inspection_json = adopted.inspection_json;
  if (adopted.complete) {
    model.snapshot_path = cache.SnapshotPath(model.commit);
    model.size_bytes = adopted.size_bytes;
  }
  ASSIGN_OR_RETURN(const Model row, parts_.tables.models.Insert(model));
  if (adopted.complete) {
    const absl::Status put = parts_.tables.copies.Put({.model_id = row.id,
                                                       .node_id = options_.node_id,
                                                       .cache_path = model.cache_path,
                                                       .commit = model.commit,
                                                       .snapshot_path = model.snapshot_path,
                                                       .filter = model.filter,
                                                       .complete = true,
                                                       .size_bytes = model.size_bytes});
    if (!put.ok()) {
      // Half an adoption would stand in the way of the next try; should this fail too, the row
      // says REGISTERED, and a load finds the files by their listing.
      parts_.tables.models.Delete(model.model_name).IgnoreError();
      return put;
    }
  }
  LogInfo("model_adopted", {{"model", model.model_name},
                            {"repo", model.hf_path},
                            {"commit", model.commit},
                            {"complete", adopted.complete},
                            {"bytes", adopted.size_bytes}});
  return parts_.registry.Get(model.model_name);
}

}  // namespace modeld
