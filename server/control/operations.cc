#include "server/control/operations.h"

#include <algorithm>
#include <set>
#include <string_view>
#include <utility>

#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/random.h"
#include "server/base/status.h"
#include "server/cache/repo_cache.h"
#include "server/cache/space.h"
#include "server/control/page_token.h"
#include "server/control/preflight.h"
#include "server/core/reason.h"
#include "server/core/repo.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;

// Who waits for files goes before who merely downloads, and who gives memory back before both.
constexpr int32_t kLoadPriority = 100;
constexpr int32_t kUnloadPriority = 2'000;
constexpr int32_t kDownloadPriorityMax = 1'000;
// A planner waits for its answer.
constexpr HubClient::Patience kPlanPatience{.deadline = milliseconds(20'000), .retry = false};
// News may be lost while the database is away, so that a waiter looks by itself too.
constexpr milliseconds kLookAgain{2'000};

LoadRequest WithDefaults(LoadRequest request) {
  if (request.spec.dtype.empty()) request.spec.dtype = LoadSpec().dtype;
  if (request.spec.device_map.empty() && request.spec.device_map_entries.empty()) {
    request.spec.device_map = LoadSpec().device_map;
  }
  return request;
}

Operation NewOperation(OperationKind kind, const Model& model, const std::string& node_id) {
  Operation operation;
  operation.name = RandomUuid();
  operation.kind = kind;
  operation.model_id = model.id;
  operation.model_name = model.model_name;
  operation.node_id = node_id;
  return operation;
}

absl::Status InProgress(const Operation& operation) {
  return Error(Reason::kOperationInProgress,
               "another " + std::string(OperationKindName(operation.kind)) + " of model \"" +
                   operation.model_name + "\" runs: " + operation.name,
               {{"operation", operation.name}});
}

using Same = std::function<bool(const Operation&)>;

// Joins an active operation of `kind` for the same work, refuses when there is one for other work.
OperationsTable::Decide JoinOrInsert(OperationKind kind, Same same) {
  return [kind, same = std::move(same)](
             const std::vector<Operation>& active) -> absl::StatusOr<OperationsTable::Decision> {
    for (const Operation& other : active) {
      // One that is about to end serves nobody any more; the new one waits for it.
      if (other.kind != kind || other.cancel_requested) continue;
      if (!same(other)) return InProgress(other);
      return OperationsTable::Decision{.join = other.name};
    }
    return OperationsTable::Decision{.insert = true};
  };
}

absl::Status ValidateDownload(const DownloadRequest& request) {
  RETURN_IF_ERROR(ValidateModelName(request.model_name));
  if (!request.revision.empty()) RETURN_IF_ERROR(ValidateRevision(request.revision));
  RETURN_IF_ERROR(ValidateFileFilter(request.filter));
  if (std::abs(request.priority) > kDownloadPriorityMax) {
    return InvalidField("priority", "is not in -1000 to 1000");
  }
  if (request.bytes_per_second_max < 0) {
    return InvalidField("bytes_per_second_max", "is below 0");
  }
  return absl::OkStatus();
}

absl::Status ValidateOperationName(const std::string& name) {
  if (name.empty()) return InvalidField("name", "is empty");
  if (name.size() > 200 || name.find('\0') != std::string::npos) return OperationNotFound("?");
  return absl::OkStatus();
}

}  // namespace

Operations::Operations(const Options& options, const Parts& parts)
    : options_(options), parts_(parts), limits_(options.limits) {
  parts_.pool.SetLimits(options.limits);
}

absl::StatusOr<Operation> Operations::Started(absl::StatusOr<Operation> operation) {
  RETURN_IF_ERROR(operation.status());
  parts_.live.Overlay(*operation);
  // The loader hears of it from the database too, but later.
  parts_.changes.Publish("operation:" + operation->name);
  if (operation->cancel_requested || operation->pause_requested) {
    parts_.changes.Publish("wish:" + operation->name);
  }
  return operation;
}

absl::Status Operations::CheckLoad(const LoadRequest& request, const Model& model) {
  // Of another revision nothing is known yet.
  if (!request.revision.empty() || model.inspection_json.empty()) return absl::OkStatus();
  const auto inspection = InspectionFromJson(model.inspection_json);
  if (!inspection.ok()) {
    LogWarning("inspection_not_read",
               {{"model", model.model_name}, {"error", inspection.status()}});
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(inspection->Supported());
  if (inspection->weights_bytes.empty()) return absl::OkStatus();
  return parts_.engines.Plan(model.model_name, *inspection, request.spec, /*replace=*/true)
      .status();
}

absl::StatusOr<bool> Operations::Satisfied(const LoadRequest& request, const Model& model) {
  if (!request.revision.empty() || model.commit.empty()) return false;
  const std::vector<Instance> instances = parts_.engines.List();
  const bool ready = std::ranges::any_of(instances, [&](const Instance& instance) {
    return instance.model_id == model.id && instance.state == InstanceState::kReady &&
           instance.commit == model.commit;
  });
  if (!ready) return false;
  // What was asked for is in the row; the instance says what the engine made of it.
  ASSIGN_OR_RETURN(const std::vector<class Load> loads, parts_.tables.loads.List(options_.node_id));
  for (const auto& load : loads) {
    if (load.model_id != model.id) continue;
    if (!load.wanted || load.commit != model.commit || load.spec != request.spec) return false;
    if (load.pinned != request.pin) {
      auto changed = load;
      changed.pinned = request.pin;
      RETURN_IF_ERROR(parts_.tables.loads.Put(changed));
      parts_.engines.SetPinned(model.model_name, request.pin);
    }
    return true;
  }
  return false;
}

absl::StatusOr<Operation> Operations::Load(const LoadRequest& asked) {
  const LoadRequest request = WithDefaults(asked);
  RETURN_IF_ERROR(ValidateModelName(request.model_name));
  if (!request.revision.empty()) RETURN_IF_ERROR(ValidateRevision(request.revision));
  RETURN_IF_ERROR(ValidateLoadSpec(request.spec));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(request.model_name));

  Operation operation = NewOperation(OperationKind::kLoad, model, options_.node_id);
  operation.spec.revision = request.revision;
  operation.spec.load = request.spec;
  operation.spec.pinned = request.pin;
  operation.spec.priority = kLoadPriority;
  ASSIGN_OR_RETURN(const bool satisfied, Satisfied(request, model));
  if (satisfied) {
    operation.state = OperationState::kSucceeded;
    operation.progress.phase = OperationPhase::kReady;
  } else {
    RETURN_IF_ERROR(CheckLoad(request, model));
  }
  auto started = Started(parts_.tables.operations.Start(
      operation, JoinOrInsert(OperationKind::kLoad, [&](const Operation& other) {
        return other.spec.revision == request.revision && other.spec.load == request.spec;
      })));
  // It waits for a download of the model that runs.
  if (started.ok() && !started->done()) RETURN_IF_ERROR(RaiseDownloads(model, kLoadPriority));
  return started;
}

absl::Status Operations::RaiseDownloads(const Model& model, int32_t priority) {
  ASSIGN_OR_RETURN(const std::vector<std::string> raised,
                   parts_.tables.operations.RaiseDownloads(model.id, options_.node_id, priority));
  for (const std::string& name : raised) parts_.changes.Publish("wish:" + name);
  return absl::OkStatus();
}

absl::StatusOr<Operation> Operations::Unload(const std::string& model_name) {
  RETURN_IF_ERROR(ValidateModelName(model_name));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(model_name));
  const std::vector<Instance> instances = parts_.engines.List();
  bool in_use = std::ranges::any_of(
      instances, [&](const Instance& instance) { return instance.model_id == model.id; });
  ASSIGN_OR_RETURN(const std::vector<class Load> loads, parts_.tables.loads.List(options_.node_id));
  for (const auto& load : loads) in_use |= load.model_id == model.id && load.wanted;

  Operation operation = NewOperation(OperationKind::kUnload, model, options_.node_id);
  operation.spec.priority = kUnloadPriority;
  std::vector<std::string> loading;
  auto started = parts_.tables.operations.Start(
      operation,
      [&](const std::vector<Operation>& active) -> absl::StatusOr<OperationsTable::Decision> {
        loading.clear();
        for (const Operation& other : active) {
          if (other.kind == OperationKind::kUnload && !other.cancel_requested) {
            return OperationsTable::Decision{.join = other.name};
          }
          if (other.kind == OperationKind::kLoad) loading.push_back(other.name);
        }
        if (!in_use && loading.empty()) {
          return Error(Reason::kModelNotReady,
                       "model \"" + model_name + "\" is neither loaded nor loading here",
                       {{"model_name", model_name}});
        }
        return OperationsTable::Decision{.insert = true};
      });
  RETURN_IF_ERROR(started.status());
  RETURN_IF_ERROR(parts_.tables.loads.SetWanted(model.id, options_.node_id, false));
  for (const std::string& name : loading) {
    const absl::Status cancelled = Cancel(name).status();
    // One that ended by itself meanwhile is fine: the unload follows it.
    if (!cancelled.ok() && !HasReason(cancelled, Reason::kOperationNotActive)) return cancelled;
  }
  return Started(std::move(started));
}

absl::StatusOr<Operation> Operations::Download(const DownloadRequest& request) {
  RETURN_IF_ERROR(ValidateDownload(request));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(request.model_name));
  Operation operation = NewOperation(OperationKind::kDownload, model, options_.node_id);
  operation.spec.revision = request.revision.empty() ? model.revision : request.revision;
  operation.spec.priority = request.priority;
  if (!request.filter.empty()) operation.spec.filter = request.filter;
  operation.spec.bytes_per_second_max = request.bytes_per_second_max;
  ASSIGN_OR_RETURN(
      Operation started,
      Started(parts_.tables.operations.Start(
          operation, JoinOrInsert(OperationKind::kDownload, [&](const Operation& other) {
            return other.spec.revision == operation.spec.revision &&
                   other.spec.filter == operation.spec.filter;
          }))));
  if (started.spec.priority < request.priority) {
    // It was there already; who is in more of a hurry takes it along.
    RETURN_IF_ERROR(RaiseDownloads(model, request.priority));
    started.spec.priority = request.priority;
  }
  return started;
}

absl::StatusOr<DownloadPlan> Operations::Plan(const DownloadRequest& request,
                                              std::stop_token stop) {
  RETURN_IF_ERROR(ValidateDownload(request));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(request.model_name));
  const std::string revision = request.revision.empty() ? model.revision : request.revision;
  const FileFilter& filter = request.filter.empty() ? model.filter : request.filter;
  const HubRepo repo{model.hf_path, model.token_credential};
  DownloadPlan plan;
  ASSIGN_OR_RETURN(plan.commit, parts_.hub.ResolveRevision(repo, revision, kPlanPatience, stop));
  ASSIGN_OR_RETURN(const RepoListing listing,
                   parts_.hub.ListFiles(repo, plan.commit, kPlanPatience, stop));
  const std::vector<RepoFile> wanted = filter.Apply(listing.files);
  plan.left_out = filter.LeftOut(listing.files);

  const std::string cache_path = parts_.registry.CachePathOf(model);
  const RepoCache cache(cache_path, model.hf_path);
  std::set<std::string_view> blobs;
  int64_t total_bytes = 0;
  for (const RepoFile& file : wanted) {
    const int64_t missing = cache.MissingBytes(plan.commit, {file});
    plan.files.push_back({.path = file.path,
                          .size_bytes = file.size_bytes,
                          .bytes_done = file.size_bytes - missing,
                          .state = cache.HasBlob(file) || cache.HasInSnapshot(plan.commit, file)
                                       ? FileState::kPresent
                                       : FileState::kPending});
    if (blobs.insert(file.blob).second) total_bytes += file.size_bytes;
  }
  plan.fetch_bytes = cache.MissingBytes(plan.commit, wanted);
  plan.present_bytes = total_bytes - plan.fetch_bytes;
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(cache_path));
  // What a download of this very model has reserved is what is planned here.
  ASSIGN_OR_RETURN(const int64_t reserved,
                   parts_.tables.reservations.ReservedByOtherModels(filesystem.id, model.id));
  plan.free_after_bytes = filesystem.free_bytes - reserved - cache.SpaceNeeded(plan.commit, wanted);
  auto inspection = InspectFiles(
      parts_.engines, {.files = wanted, .trust_remote_code = model.trust_remote_code},
      CacheReader(cache, wanted, HubReader(parts_.hub, repo, plan.commit, kPlanPatience, stop)),
      stop);
  RETURN_IF_ERROR(inspection.status());
  plan.inspection = *std::move(inspection);
  return plan;
}

absl::StatusOr<Operation> Operations::Get(const std::string& name) {
  RETURN_IF_ERROR(ValidateOperationName(name));
  ASSIGN_OR_RETURN(Operation operation, parts_.tables.operations.Get(name));
  parts_.live.Overlay(operation);
  return operation;
}

absl::StatusOr<OperationsPage> Operations::List(const std::string& model_name, int64_t page_size,
                                                const std::string& page_token) {
  std::optional<std::string> of_model;
  if (!model_name.empty()) {
    RETURN_IF_ERROR(ValidateModelName(model_name));
    of_model = model_name;
  }
  ASSIGN_OR_RETURN(const int64_t limit, EffectivePageSize(page_size));
  const std::string query = "operations model=" + model_name;
  ASSIGN_OR_RETURN(const std::string before, ReadPageToken(query, page_token));
  auto operations = parts_.tables.operations.List(of_model, before, limit + 1);
  if (HasReason(operations.status(), Reason::kOperationNotFound)) {
    return InvalidField("page_token", "the operation where its page ended is gone; begin anew");
  }
  RETURN_IF_ERROR(operations.status());
  OperationsPage page;
  page.operations = *std::move(operations);
  if (std::ssize(page.operations) > limit) {
    page.operations.resize(static_cast<size_t>(limit));
    page.next_page_token = MakePageToken(query, page.operations.back().name);
  }
  for (Operation& operation : page.operations) parts_.live.Overlay(operation);
  return page;
}

absl::StatusOr<Operation> Operations::Wait(const std::string& name, milliseconds timeout,
                                           std::stop_token stop) {
  using std::chrono::steady_clock;
  // What a caller may ask for has no bound, what a clock can hold has one.
  timeout = std::clamp(timeout, milliseconds(0), milliseconds(std::chrono::hours(24 * 365)));
  const auto deadline = steady_clock::now() + timeout;
  Mutex mutex;
  CondVar changed;
  bool dirty = false;
  const auto tell = [&] {
    MutexLock lock(mutex);
    dirty = true;
    changed.NotifyAll();
  };
  const auto subscription = parts_.changes.Subscribe("operation:" + name, tell);
  const std::stop_callback on_stop(stop, tell);
  while (true) {
    {
      MutexLock lock(mutex);
      dirty = false;
    }
    ASSIGN_OR_RETURN(Operation operation, Get(name));
    if (operation.done() || stop.stop_requested() || steady_clock::now() >= deadline) {
      return operation;
    }
    MutexLock lock(mutex);
    const auto look_again = std::min(deadline, steady_clock::now() + kLookAgain);
    while (!dirty && steady_clock::now() < look_again) changed.WaitUntil(mutex, look_again);
  }
}

absl::StatusOr<Operation> Operations::Cancel(const std::string& name) {
  RETURN_IF_ERROR(ValidateOperationName(name));
  ASSIGN_OR_RETURN(const Operation operation, parts_.tables.operations.RequestCancel(name));
  if (operation.kind == OperationKind::kLoad && operation.done()) {
    // It had not begun, so that no attempt will say that the model is not wanted any more; an
    // instance that it was to replace stays wanted.
    const std::vector<Instance> instances = parts_.engines.List();
    if (std::ranges::none_of(instances, [&](const Instance& instance) {
          return instance.model_id == operation.model_id;
        })) {
      RETURN_IF_ERROR(parts_.tables.loads.SetWanted(operation.model_id, operation.node_id, false));
    }
  }
  return Started(operation);
}

absl::StatusOr<Operation> Operations::Pause(const std::string& name) {
  ASSIGN_OR_RETURN(const Operation operation, Get(name));
  if (operation.kind != OperationKind::kDownload && operation.kind != OperationKind::kLoad) {
    return Error(Reason::kOperationNotActive,
                 "operation " + name + " is no download, there is nothing to pause");
  }
  return Started(parts_.tables.operations.RequestPause(name));
}

absl::StatusOr<Operation> Operations::Resume(const std::string& name) {
  RETURN_IF_ERROR(ValidateOperationName(name));
  return Started(parts_.tables.operations.Resume(name));
}

absl::StatusOr<DownloadPool::Limits> Operations::Limits(const std::string& operation) {
  if (operation.empty()) {
    MutexLock lock(mutex_);
    return limits_;
  }
  ASSIGN_OR_RETURN(const Operation found, Get(operation));
  return DownloadPool::Limits{.bytes_per_second = found.spec.bytes_per_second_max};
}

absl::StatusOr<DownloadPool::Limits> Operations::SetLimits(const LimitsChange& change) {
  if (change.bytes_per_second.value_or(0) < 0) {
    return InvalidField("bytes_per_second", "is below 0");
  }
  if (change.connections.value_or(0) < 0) return InvalidField("connections", "is below 0");
  if (change.connections_per_host.value_or(0) < 0) {
    return InvalidField("connections_per_host", "is below 0");
  }
  return change.operation.empty() ? SetOwnLimits(change) : SetOperationLimit(change);
}

absl::StatusOr<DownloadPool::Limits> Operations::SetOwnLimits(const LimitsChange& change) {
  MutexLock lock(mutex_);
  limits_.bytes_per_second = change.bytes_per_second.value_or(limits_.bytes_per_second);
  limits_.connections = change.connections.value_or(limits_.connections);
  limits_.connections_per_host = change.connections_per_host.value_or(limits_.connections_per_host);
  // With the lock held, so that of two changes the later one stays; the pool calls nobody back.
  parts_.pool.SetLimits(limits_);
  LogInfo("download_limits_set", {{"bytes_per_second", limits_.bytes_per_second},
                                  {"connections", limits_.connections},
                                  {"connections_per_host", limits_.connections_per_host}});
  return limits_;
}

absl::StatusOr<DownloadPool::Limits> Operations::SetOperationLimit(const LimitsChange& change) {
  for (const auto& [field, given] :
       {std::pair("connections", change.connections.has_value()),
        std::pair("connections_per_host", change.connections_per_host.has_value())}) {
    if (given) return InvalidField(field, "is a limit of all downloads together, not of one");
  }
  ASSIGN_OR_RETURN(Operation operation, Get(change.operation));
  if (operation.kind != OperationKind::kDownload && operation.kind != OperationKind::kLoad) {
    return Error(Reason::kOperationNotActive,
                 "operation " + operation.name + " is no download, there is nothing to limit");
  }
  if (change.bytes_per_second) {
    ASSIGN_OR_RETURN(operation, parts_.tables.operations.SetBytesPerSecondMax(
                                    operation.name, *change.bytes_per_second));
    parts_.changes.Publish("wish:" + operation.name);
  }
  return DownloadPool::Limits{.bytes_per_second = operation.spec.bytes_per_second_max};
}

}  // namespace modeld
