#include "server/control/attempt.h"

#include <algorithm>
#include <utility>

#include "server/base/log.h"
#include "server/base/status.h"
#include "server/cache/repo_cache.h"
#include "server/control/local_files.h"
#include "server/control/preflight.h"
#include "server/core/reason.h"
#include "server/download/snapshot_download.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::seconds kDatabaseAgainAfter{1};
// Another load may take the room between the plan and the start.
constexpr int kPlacementsMax = 3;
constexpr int64_t kGib = int64_t{1} << 30;

absl::Status Stopped() { return absl::CancelledError("the operation was stopped"); }

}  // namespace

absl::Status Persist(Clock& clock, std::stop_token stop,
                     const std::function<absl::Status()>& write) {
  while (true) {
    absl::Status status = write();
    if (!HasReason(status, Reason::kDatabaseUnavailable)) return status;
    if (!clock.Sleep(kDatabaseAgainAfter, stop)) return Stopped();
  }
}

Attempt::Attempt(const Options& options, const Parts& parts, const Operation& claimed)
    : options_(options),
      parts_(parts),
      operation_(claimed),
      limit_(std::make_shared<RateLimit>(parts.clock)),
      epoch_(claimed.epoch),
      progress_(claimed.progress),
      priority_(claimed.spec.priority),
      had_space_(claimed.progress.bytes_total > 0) {
  progress_.bytes_per_second = 0;
  progress_.eta.reset();
  limit_->Set(claimed.spec.bytes_per_second_max);
}

void Attempt::Stop(Intent intent) {
  {
    MutexLock lock(mutex_);
    if (intent_ == Intent::kNone) intent_ = intent;
  }
  stop_.request_stop();
}

Attempt::Intent Attempt::intent() const {
  MutexLock lock(mutex_);
  return intent_;
}

OperationProgress Attempt::progress() const {
  MutexLock lock(mutex_);
  return progress_;
}

OperationLease Attempt::lease() const {
  MutexLock lock(mutex_);
  return {.name = operation_.name, .owner = operation_.owner, .epoch = epoch_};
}

void Attempt::AdoptEpoch(int64_t epoch) {
  MutexLock lock(mutex_);
  epoch_ = std::max(epoch_, epoch);
}

int32_t Attempt::priority() const {
  MutexLock lock(mutex_);
  return priority_;
}

void Attempt::Obey(const OperationsTable::Wishes& wishes) {
  bool raised = false;
  {
    MutexLock lock(mutex_);
    // Files that wait in the pool keep the priority that they came with.
    raised = promise_ && operation_.kind == OperationKind::kDownload && wishes.priority > priority_;
    priority_ = wishes.priority;
  }
  limit_->Set(wishes.bytes_per_second_max);
  if (wishes.cancel) Stop(Intent::kCancel);
  if (wishes.pause) Stop(Intent::kPause);
  if (raised) Stop(Intent::kYield);
}

bool Attempt::had_space() const {
  MutexLock lock(mutex_);
  return had_space_;
}

absl::Status Attempt::FollowSpace() {
  std::shared_ptr<SpacePromise> promise;
  OperationProgress now;
  {
    MutexLock lock(mutex_);
    promise = promise_;
    now = progress_;
  }
  return promise ? promise->Follow(now.files) : absl::OkStatus();
}

absl::Status Attempt::Write(const std::function<absl::Status()>& write) {
  return Persist(parts_.clock, stop_.get_token(), write);
}

absl::Status Attempt::Run() {
  RETURN_IF_ERROR(ReadModel());
  switch (operation_.kind) {
    case OperationKind::kDownload:
      return RunDownload();
    case OperationKind::kLoad:
      return RunLoad();
    case OperationKind::kUnload:
      return RunUnload();
    default:
      return MethodNotSupported("operations of this kind");
  }
}

absl::Status Attempt::ReadModel() {
  RETURN_IF_ERROR(Write([&]() -> absl::Status {
    ASSIGN_OR_RETURN(model_, parts_.tables.models.GetById(operation_.model_id));
    return absl::OkStatus();
  }));
  cache_path_ = parts_.registry.CachePathOf(model_);
  return absl::OkStatus();
}

absl::Status Attempt::RunDownload() {
  SetPhase(OperationPhase::kResolving);
  ASSIGN_OR_RETURN(Source source, AskHub());
  auto inspection = Inspect(source);
  // A repository that cannot be loaded may be downloaded.
  if (inspection.ok()) source.inspection = *std::move(inspection);
  return Fetch(source).status();
}

absl::Status Attempt::RunLoad() {
  SetPhase(OperationPhase::kResolving);
  ASSIGN_OR_RETURN(std::optional<Snapshot> snapshot, FindLocal());
  if (!snapshot) {
    ASSIGN_OR_RETURN(Source source, AskHub());
    ASSIGN_OR_RETURN(source.inspection, Inspect(source));
    RETURN_IF_ERROR(source.inspection->Supported());
    // Refused before the first byte of weights is fetched.
    RETURN_IF_ERROR(parts_.engines
                        .Plan(model_.model_name, *source.inspection, operation_.spec.load,
                              /*replace=*/true)
                        .status());
    ASSIGN_OR_RETURN(snapshot, Fetch(source));
  }
  RETURN_IF_ERROR(snapshot->inspection->Supported());
  if (!LoadedAlready(*snapshot)) RETURN_IF_ERROR(StartEngine(*snapshot));
  RETURN_IF_ERROR(WriteWanted(*snapshot));
  SetPhase(OperationPhase::kReady);
  return absl::OkStatus();
}

absl::Status Attempt::RunUnload() {
  RETURN_IF_ERROR(
      Write([&] { return parts_.tables.loads.SetWanted(model_.id, operation_.node_id, false); }));
  RETURN_IF_ERROR(parts_.engines.Unload(model_.model_name, options_.drain));
  RETURN_IF_ERROR(Write([&] { return parts_.instance_rows.Sync(); }));
  return absl::OkStatus();
}

absl::StatusOr<Inspection> Attempt::InspectLocal(const std::string& folder,
                                                 const std::vector<RepoFile>& files) {
  auto kept = InspectionFromJson(model_.inspection_json);
  if (kept.ok() && kept->IsWhole()) return kept;
  ASSIGN_OR_RETURN(
      Inspection inspection,
      InspectFiles(parts_.engines, {.files = files, .trust_remote_code = model_.trust_remote_code},
                   FolderReader(folder), stop_.get_token()));
  RETURN_IF_ERROR(Write([&] {
    return parts_.tables.models.SetResolved(model_.id, model_.commit, InspectionToJson(inspection),
                                            0);
  }));
  return inspection;
}

absl::StatusOr<std::optional<Attempt::Snapshot>> Attempt::FindLocal() {
  const RepoCache cache(cache_path_, model_.hf_path);
  if (model_.commit.empty() && parts_.hub.options().offline) {
    // What the name meant when its files came, whoever fetched them.
    if (const auto ref = cache.ReadRef(model_.revision); ref.ok()) model_.commit = *ref;
  }
  if (!operation_.spec.revision.empty() || model_.commit.empty()) return std::nullopt;
  std::vector<Copy> copies;
  RETURN_IF_ERROR(Write([&]() -> absl::Status {
    ASSIGN_OR_RETURN(copies, parts_.tables.copies.List(model_.id));
    return absl::OkStatus();
  }));
  const bool recorded = std::ranges::any_of(copies, [&](const Copy& copy) {
    return copy.complete && copy.node_id == operation_.node_id && copy.cache_path == cache_path_ &&
           copy.commit == model_.commit && copy.filter == model_.filter;
  });
  std::vector<RepoFile> files;
  if (const auto tree = cache.ReadTree(model_.commit); tree.ok()) {
    files = model_.filter.Apply(tree->files);
    const auto here = [&](const RepoFile& file) {
      return cache.HasInSnapshot(model_.commit, file);
    };
    if (files.empty() || !std::ranges::all_of(files, here)) return std::nullopt;
  } else {
    // A snapshot with files left out by patterns has no tree; then our own row says that it is
    // whole.
    if (!recorded) return std::nullopt;
    auto listed = ListFolder(cache.SnapshotPath(model_.commit));
    if (!listed.ok()) return std::nullopt;  // removed or damaged by somebody: fetch it again
    files = *std::move(listed);
  }
  Snapshot snapshot{.commit = model_.commit, .path = cache.SnapshotPath(model_.commit)};
  ASSIGN_OR_RETURN(snapshot.inspection, InspectLocal(snapshot.path, files));
  Source source{.revision = model_.revision,
                .listing = {.commit = model_.commit, .files = files},
                .filter = model_.filter,
                .wanted = files};
  if (!recorded || model_.snapshot_path != snapshot.path) {
    RETURN_IF_ERROR(Record(source, snapshot.path, TotalBytes(files)));
  }
  LogInfo("snapshot_found", {{"model", model_.model_name}, {"path", snapshot.path}});
  return snapshot;
}

absl::StatusOr<Attempt::Source> Attempt::AskHub() {
  RETURN_IF_ERROR(parts_.registry.CheckPath(cache_path_, model_.cache_location));
  const HubClient::Patience patience;
  const std::stop_token stop = stop_.get_token();
  const HubRepo repo{model_.hf_path, model_.token_credential};
  const std::string& asked = operation_.spec.revision;
  Source source;
  source.filter = operation_.spec.filter.value_or(model_.filter);
  source.revision = asked.empty() ? model_.revision : asked;
  std::string commit = asked.empty() ? model_.commit : std::string();
  if (commit.empty() && IsCommit(source.revision)) commit = source.revision;
  if (commit.empty()) {
    ASSIGN_OR_RETURN(commit, parts_.hub.ResolveRevision(repo, source.revision, patience, stop));
  }
  ASSIGN_OR_RETURN(source.listing, parts_.hub.ListFiles(repo, commit, patience, stop));
  source.wanted = source.filter.Apply(source.listing.files);
  if (source.wanted.empty()) {
    return Error(Reason::kInvalidRepository,
                 "no file of " + model_.hf_path + " at " + commit + " is kept by the patterns");
  }
  LogInfo("snapshot_resolved", {{"model", model_.model_name},
                                {"commit", commit},
                                {"files", source.wanted.size()},
                                {"bytes", TotalBytes(source.wanted)}});
  return source;
}

absl::StatusOr<std::optional<Inspection>> Attempt::Inspect(const Source& source) {
  const std::string& commit = source.listing.commit;
  auto kept = InspectionFromJson(model_.inspection_json);
  std::optional<Inspection> inspection;
  if (kept.ok() && kept->IsWhole() && commit == model_.commit && source.filter == model_.filter) {
    inspection = *std::move(kept);
  } else {
    ASSIGN_OR_RETURN(
        inspection,
        InspectFiles(parts_.engines,
                     {.files = source.wanted, .trust_remote_code = model_.trust_remote_code},
                     CacheReader(RepoCache(cache_path_, model_.hf_path), source.wanted,
                                 HubReader(parts_.hub, {model_.hf_path, model_.token_credential},
                                           commit, {}, stop_.get_token())),
                     stop_.get_token()));
  }
  // The row moves to another commit only when that one is here.
  if (model_.commit.empty() || model_.commit == commit) {
    RETURN_IF_ERROR(Write([&] {
      return parts_.tables.models.SetResolved(model_.id, commit, InspectionToJson(*inspection),
                                              TotalBytes(source.wanted));
    }));
  }
  return inspection;
}

absl::Status Attempt::Reserve(const Source& source) {
  auto promise = std::make_shared<SpacePromise>(
      parts_.tables, operation_, cache_path_, model_.hf_path, source.listing.commit, source.wanted);
  RETURN_IF_ERROR(Write([&] { return promise->Make(); }));
  MutexLock lock(mutex_);
  had_space_ = true;
  promise_ = std::move(promise);
  return absl::OkStatus();
}

// What was allocated ahead is free again by now, so that the reservation grows to what is missing.
absl::Status Attempt::Unfetched(const absl::Status& error) {
  std::shared_ptr<SpacePromise> promise;
  {
    MutexLock lock(mutex_);
    promise = promise_;
  }
  if (HasReason(error, Reason::kInsufficientDisk)) return promise->Shortage(error);
  const absl::Status made = promise->Make();
  if (!made.ok()) {
    LogDebug("reservation_not_kept", {{"operation", operation_.name}, {"error", made}});
  }
  return error;
}

absl::StatusOr<Attempt::Snapshot> Attempt::Fetch(const Source& source) {
  RETURN_IF_ERROR(Reserve(source));
  const RepoCache cache(cache_path_, model_.hf_path);
  SnapshotRequest request{.model_name = model_.model_name,
                          .cache_name = parts_.registry.CacheLabelOf(model_),
                          .cache_path = cache_path_,
                          .repo_id = model_.hf_path,
                          .token_credential = model_.token_credential,
                          .revision = source.revision,
                          .listing = source.listing,
                          .filter = source.filter,
                          .priority = priority(),
                          .limit = limit_};
  // The row's commit may be older than what the name means by now: a ref never goes back for it.
  if (operation_.spec.revision.empty() && cache.ReadRef(source.revision).ok()) {
    request.revision = source.listing.commit;
  }
  const auto confirm = [this] {
    return Write([&] { return parts_.tables.operations.Renew(lease(), options_.lease); });
  };
  auto fetched = DownloadSnapshot(
      request, parts_.pool, [this](const OperationProgress& now) { OnDownloadProgress(now); },
      confirm, stop_.get_token());
  if (!fetched.ok()) return Unfetched(fetched.status());
  {
    MutexLock lock(mutex_);
    promise_.reset();
  }
  RETURN_IF_ERROR(Write([&] { return parts_.tables.reservations.Release(operation_.name); }));
  RETURN_IF_ERROR(Record(source, fetched->snapshot_path, fetched->size_bytes));
  return Snapshot{.commit = source.listing.commit,
                  .path = fetched->snapshot_path,
                  .inspection = source.inspection};
}

absl::Status Attempt::Record(const Source& source, const std::string& snapshot_path,
                             int64_t size_bytes) {
  const std::string& commit = source.listing.commit;
  const RepoCache cache(cache_path_, model_.hf_path);
  // Fetched with other patterns, it may still be all that the row's patterns want.
  const std::vector<RepoFile> of_row = model_.filter.Apply(source.listing.files);
  const bool complete = std::ranges::all_of(
      of_row, [&](const RepoFile& file) { return cache.HasInSnapshot(commit, file); });
  if (!complete) return absl::OkStatus();
  Copy copy;
  copy.model_id = model_.id;
  copy.node_id = operation_.node_id;
  copy.cache_path = cache_path_;
  copy.commit = commit;
  copy.snapshot_path = snapshot_path;
  copy.filter = model_.filter;
  copy.complete = true;
  copy.size_bytes = source.filter == model_.filter ? size_bytes : TotalBytes(of_row);
  return Write([&]() -> absl::Status {
    // What others took over must not move the row any more.
    RETURN_IF_ERROR(parts_.tables.operations.Renew(lease(), options_.lease));
    RETURN_IF_ERROR(parts_.tables.copies.Put(copy));
    RETURN_IF_ERROR(parts_.tables.models.SetSnapshot(model_.id, source.revision, commit,
                                                     snapshot_path, copy.size_bytes));
    if (!source.inspection) return absl::OkStatus();
    return parts_.tables.models.SetResolved(model_.id, commit, InspectionToJson(*source.inspection),
                                            0);
  });
}

bool Attempt::LoadedAlready(const Snapshot& snapshot) {
  const std::vector<Instance> instances = parts_.engines.List();
  if (std::ranges::none_of(instances, [&](const Instance& instance) {
        return instance.model_id == model_.id && instance.state == InstanceState::kReady &&
               instance.commit == snapshot.commit;
      })) {
    return false;
  }
  const auto loads = parts_.tables.loads.List(operation_.node_id);
  // Not known: loading it anew is right in any case.
  if (!loads.ok()) return false;
  return std::ranges::any_of(*loads, [&](const Load& load) {
    return load.model_id == model_.id && load.wanted && load.commit == snapshot.commit &&
           load.spec == operation_.spec.load;
  });
}

absl::StatusOr<Placement> Attempt::MakeRoom(const Inspection& inspection) {
  const LoadSpec& spec = operation_.spec.load;
  // Beside the instance that it replaces, if both fit.
  auto placement = parts_.engines.Plan(model_.model_name, inspection, spec, /*replace=*/false);
  if (HasReason(placement.status(), Reason::kInsufficientDeviceMemory)) {
    placement = parts_.engines.Plan(model_.model_name, inspection, spec, /*replace=*/true);
  }
  RETURN_IF_ERROR(placement.status());
  for (const std::string& victim : placement->evict) {
    if (victim != model_.model_name) {
      RETURN_IF_ERROR(Write([&]() -> absl::Status {
        const auto model = parts_.tables.models.Get(victim);
        if (HasReason(model.status(), Reason::kModelNotFound)) return absl::OkStatus();
        RETURN_IF_ERROR(model.status());
        return parts_.tables.loads.SetWanted(model->id, operation_.node_id, false);
      }));
      LogInfo("model_evicted", {{"model", victim}, {"for", model_.model_name}});
    }
    RETURN_IF_ERROR(parts_.engines.Unload(victim, options_.drain));
  }
  return placement;
}

absl::Status Attempt::StartEngine(const Snapshot& snapshot) {
  SetPhase(OperationPhase::kLoading);
  EngineLoad load;
  load.model_name = model_.model_name;
  load.model_id = model_.id;
  load.node_id = operation_.node_id;
  load.commit = snapshot.commit;
  load.snapshot_path = snapshot.path;
  load.trust_remote_code = model_.trust_remote_code;
  load.pinned = operation_.spec.pinned;
  load.spec = operation_.spec.load;
  const int64_t gib = snapshot.inspection->weights_file_bytes / kGib;
  load.timeout = options_.load_timeout_base + options_.load_timeout_per_gib * gib;
  absl::StatusOr<Instance> loaded = Stopped();
  for (int i = 0; i < kPlacementsMax; ++i) {
    ASSIGN_OR_RETURN(load.placement, MakeRoom(*snapshot.inspection));
    if (stop_.stop_requested()) return Stopped();
    loaded = parts_.engines.Load(
        load, [this](int64_t done, int64_t total) { OnLoadProgress(done, total); },
        stop_.get_token());
    if (!HasReason(loaded.status(), Reason::kInsufficientDeviceMemory)) break;
  }
  RETURN_IF_ERROR(loaded.status());
  // Whoever sees the operation succeed sees the instance too.
  RETURN_IF_ERROR(Write([&] { return parts_.instance_rows.Sync(); }));
  return absl::OkStatus();
}

absl::Status Attempt::WriteWanted(const Snapshot& snapshot) {
  Load load;
  load.model_id = model_.id;
  load.node_id = operation_.node_id;
  load.commit = snapshot.commit;
  load.spec = operation_.spec.load;
  load.pinned = operation_.spec.pinned;
  parts_.engines.SetPinned(model_.model_name, load.pinned);
  return Write([&]() -> absl::Status {
    // An unload that came meanwhile has the last word: it cancelled this operation first.
    RETURN_IF_ERROR(parts_.tables.operations.Renew(lease(), options_.lease));
    return parts_.tables.loads.Put(load);
  });
}

void Attempt::SetPhase(OperationPhase phase) {
  OperationProgress next = progress();
  next.phase = phase;
  next.bytes_per_second = 0;
  next.eta.reset();
  Show(next);
}

void Attempt::OnDownloadProgress(const OperationProgress& now) {
  OperationProgress next = now;
  if (next.phase == OperationPhase::kUnspecified) next.phase = OperationPhase::kDownloading;
  {
    MutexLock lock(mutex_);
    // A file that has to be fetched again must not make the sum go back.
    if (progress_.bytes_total == next.bytes_total) {
      next.bytes_done = std::max(next.bytes_done, progress_.bytes_done);
    }
  }
  Show(next);
}

void Attempt::OnLoadProgress(int64_t bytes_done, int64_t bytes_total) {
  OperationProgress next = progress();
  next.phase = OperationPhase::kLoading;
  next.bytes_done = bytes_done;
  next.bytes_total = bytes_total;
  Show(next);
}

void Attempt::Show(const OperationProgress& progress) {
  {
    MutexLock lock(mutex_);
    progress_ = progress;
  }
  parts_.live.Set(operation_.name, progress);
}

}  // namespace modeld
