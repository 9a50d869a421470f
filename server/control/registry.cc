#include "server/control/registry.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "server/base/log.h"
#include "server/base/status.h"
#include "server/cache/repo_cache.h"
#include "server/control/page_token.h"
#include "server/control/preflight.h"
#include "server/core/reason.h"
#include "server/core/repo.h"

namespace modeld {
namespace {

constexpr int64_t kBytesPerMb = 1'000'000;
constexpr int64_t kEstimateMbMax = 1'000'000'000'000;
constexpr int64_t kPage = 1'000;
constexpr char kDefaultRevision[] = "main";

absl::Status ValidateEstimate(int64_t estimated_size_mb) {
  if (estimated_size_mb < 0) return InvalidField("estimated_size_mb", "is below 0");
  if (estimated_size_mb > kEstimateMbMax) {
    return InvalidField("estimated_size_mb", "is above 1000000000000 MB");
  }
  return absl::OkStatus();
}

std::string RevisionOr(const std::string& revision) {
  return revision.empty() ? kDefaultRevision : revision;
}

// What was found out about a commit says nothing about another one.
void ForgetCommit(Model& model) {
  model.commit.clear();
  model.snapshot_path.clear();
  model.size_bytes = 0;
  model.inspection_json.clear();
}

bool Moves(const std::string& field) {
  return field == "hf_path" || field == "cache_location" || field == "cache_path";
}

}  // namespace

// What the hub says of a revision; `known` is false when it could not be asked.
struct Registry::Sizing {
  bool known = false;
  std::string commit;
  int64_t total_bytes = 0;
  int64_t missing_bytes = 0;
  std::string inspection_json;
};

std::string Registry::CachePathOf(const Model& model) const {
  return model.cache_path.empty() ? options_.roots.primary : model.cache_path;
}

std::string Registry::CacheLabelOf(const Model& model) const {
  if (model.cache_location == CacheLocation::kCustom) return CachePathOf(model);
  return std::string(CacheLocationName(model.cache_location));
}

ModelView Registry::Shown(ModelView view) const {
  view.model.cache_path = CachePathOf(view.model);
  return view;
}

absl::Status Registry::CheckPath(const std::string& cache_path, CacheLocation location) const {
  if (location == CacheLocation::kCustom) {
    for (const std::string& root : options_.roots.custom_roots) {
      if (IsBelow(cache_path, root)) RETURN_IF_ERROR(CheckNoSymlinks(cache_path, root));
    }
  }
  if (!options_.require_mount) return absl::OkStatus();
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(cache_path));
  ASSIGN_OR_RETURN(const Filesystem root, FilesystemOf("/"));
  if (filesystem.id != root.id) return absl::OkStatus();
  return Error(Reason::kCacheNotWritable,
               cache_path +
                   " is on the root filesystem, which cache.require_mount refuses; is its "
                   "disk mounted?",
               {{"cache_path", cache_path}});
}

absl::StatusOr<CachePlace> Registry::PlaceOf(const std::string& location,
                                             const std::string& cache_path) const {
  CachePlace place;
  if (!location.empty()) {
    ASSIGN_OR_RETURN(place.location, ParseCacheLocation(location));
  }
  ASSIGN_OR_RETURN(place.cache_path, ResolveCachePath(options_.roots, place.location, cache_path));
  RETURN_IF_ERROR(CheckPath(place.cache_path, place.location));
  return place;
}

absl::StatusOr<CachePlace> Registry::PlaceOfPath(const std::string& cache_path) const {
  if (cache_path.empty() || cache_path == options_.roots.primary) {
    return CachePlace{CacheLocation::kPrimary, options_.roots.primary};
  }
  if (cache_path == options_.roots.secondary) {
    return CachePlace{CacheLocation::kSecondary, cache_path};
  }
  CachePlace place{.location = CacheLocation::kCustom};
  ASSIGN_OR_RETURN(place.cache_path, ResolveCachePath(options_.roots, place.location, cache_path));
  RETURN_IF_ERROR(CheckPath(place.cache_path, place.location));
  return place;
}

absl::StatusOr<Registry::Sizing> Registry::AskHub(const Model& model, std::stop_token stop) {
  using std::chrono::milliseconds;
  auto deadline = std::chrono::steady_clock::now() + options_.hub_patience;
  const auto patience = [&] {
    const auto left =
        std::chrono::duration_cast<milliseconds>(deadline - std::chrono::steady_clock::now());
    return HubClient::Patience{.deadline = std::max(left, milliseconds(1)), .retry = false};
  };
  const HubRepo repo{model.hf_path, model.token_credential};
  Sizing sizing;
  const auto away = [](const absl::Status& status) {
    return HasReason(status, Reason::kHubUnavailable);
  };
  auto commit = parts_.hub.ResolveRevision(repo, model.revision, patience(), stop);
  if (away(commit.status())) return sizing;
  RETURN_IF_ERROR(commit.status());
  auto listing = parts_.hub.ListFiles(repo, *commit, patience(), stop);
  if (away(listing.status())) return sizing;
  RETURN_IF_ERROR(listing.status());

  const std::vector<RepoFile> wanted = model.filter.Apply(listing->files);
  sizing.known = true;
  sizing.commit = *commit;
  sizing.total_bytes = TotalBytes(wanted);
  sizing.missing_bytes = RepoCache(model.cache_path, model.hf_path).SpaceNeeded(*commit, wanted);
  if (model.model_name.empty()) return sizing;  // only the space is asked for
  // Once more for what is read of the files.
  deadline = std::chrono::steady_clock::now() + options_.hub_patience;
  const auto inspection = InspectFiles(
      parts_.engines,
      {.files = wanted, .trust_remote_code = model.trust_remote_code, .heads = Heads::kIfTheyCome},
      CacheReader(RepoCache(model.cache_path, model.hf_path), wanted,
                  [&](const std::string& path, int64_t offset, int64_t length) {
                    return parts_.hub.ReadRange(repo, *commit, path, offset, length, patience(),
                                                stop);
                  }),
      stop);
  // A gated repository lets everybody list it and only some read it.
  if (HasReason(inspection.status(), Reason::kHubAccessDenied)) return inspection.status();
  if (inspection.ok()) {
    sizing.inspection_json = InspectionToJson(*inspection);
  } else {
    // It is done again before a load, with more patience.
    LogInfo("model_not_inspected", {{"model", model.model_name}, {"error", inspection.status()}});
  }
  return sizing;
}

absl::StatusOr<SpaceCheck> Registry::SpaceFor(const std::string& cache_path,
                                              int64_t required_bytes) {
  ASSIGN_OR_RETURN(const Filesystem filesystem, FilesystemOf(cache_path));
  ASSIGN_OR_RETURN(const int64_t reserved, parts_.tables.reservations.Reserved(filesystem.id, ""));
  return modeld::CheckSpace(cache_path, filesystem, required_bytes, reserved);
}

absl::StatusOr<Model> Registry::ToModel(const RegisterRequest& request) const {
  RETURN_IF_ERROR(ValidateModelName(request.model_name));
  RETURN_IF_ERROR(ValidateRepoId(request.hf_path));
  RETURN_IF_ERROR(ValidateRevision(RevisionOr(request.revision)));
  RETURN_IF_ERROR(ValidateFileFilter(request.filter));
  RETURN_IF_ERROR(ValidateEstimate(request.estimated_size_mb));
  RETURN_IF_ERROR(ValidateTokenCredential(request.token_credential));
  ASSIGN_OR_RETURN(const CachePlace place, PlaceOf(request.cache_location, request.cache_path));
  Model model;
  model.model_name = request.model_name;
  model.hf_path = request.hf_path;
  model.revision = RevisionOr(request.revision);
  model.trust_remote_code = request.trust_remote_code;
  model.cache_location = place.location;
  model.cache_path = place.cache_path;
  model.filter = request.filter;
  model.estimated_size_bytes = request.estimated_size_mb * kBytesPerMb;
  model.token_credential = request.token_credential;
  return model;
}

absl::StatusOr<RegisteredModel> Registry::Register(const RegisterRequest& request,
                                                   std::stop_token stop) {
  ASSIGN_OR_RETURN(Model model, ToModel(request));
  // A name that is taken need not wait for the hub; Insert() decides for certain.
  const absl::Status taken = parts_.tables.models.Get(model.model_name).status();
  if (taken.ok()) {
    return Error(Reason::kModelAlreadyExists,
                 "a model is named \"" + model.model_name + "\" already",
                 {{"model_name", model.model_name}});
  }
  if (!HasReason(taken, Reason::kModelNotFound)) return taken;

  ASSIGN_OR_RETURN(const Sizing sizing, AskHub(model, stop));
  int64_t required = model.estimated_size_bytes > 0 ? model.estimated_size_bytes : -1;
  if (sizing.known) {
    required = sizing.missing_bytes;
    model.commit = sizing.commit;
    model.estimated_size_bytes = sizing.total_bytes;
    model.inspection_json = sizing.inspection_json;
  }
  ASSIGN_OR_RETURN(SpaceCheck space, SpaceFor(model.cache_path, required));
  if (!space.sufficient) {
    return InsufficientBytes(Reason::kInsufficientDisk, space.cache_path, space.required_bytes,
                             space.free_bytes);
  }
  RETURN_IF_ERROR(parts_.tables.models.Insert(model).status());
  LogInfo("model_registered", {{"model", model.model_name},
                               {"repo", model.hf_path},
                               {"cache", model.cache_path},
                               {"bytes", required}});
  ASSIGN_OR_RETURN(ModelView view, Get(model.model_name));
  return RegisteredModel{std::move(view), std::move(space)};
}

absl::StatusOr<ModelView> Registry::Get(const std::string& model_name) {
  RETURN_IF_ERROR(ValidateModelName(model_name));
  ASSIGN_OR_RETURN(ModelView view, parts_.tables.models.GetView(model_name));
  return Shown(std::move(view));
}

absl::StatusOr<ModelsPage> Registry::List(int64_t page_size, const std::string& page_token,
                                          ModelState state) {
  ASSIGN_OR_RETURN(const int64_t limit, EffectivePageSize(page_size));
  const std::string query = "models state=" + std::string(ModelStateName(state));
  ASSIGN_OR_RETURN(const std::string after, ReadPageToken(query, page_token));
  std::optional<ModelState> wanted;
  if (state != ModelState::kUnspecified) wanted = state;
  // One more than the page says whether there is another one.
  ASSIGN_OR_RETURN(std::vector<ModelView> views,
                   parts_.tables.models.ListViews(after, limit + 1, wanted));
  ModelsPage page;
  if (std::ssize(views) > limit) {
    views.resize(static_cast<size_t>(limit));
    page.next_page_token = MakePageToken(query, views.back().model.model_name);
  }
  for (ModelView& view : views) page.models.push_back(Shown(std::move(view)));
  return page;
}

absl::StatusOr<std::vector<ModelView>> Registry::ListAll() {
  std::vector<ModelView> all;
  std::string after;
  while (true) {
    ASSIGN_OR_RETURN(std::vector<ModelView> views,
                     parts_.tables.models.ListViews(after, kPage, std::nullopt));
    const bool last = std::ssize(views) < kPage;
    for (ModelView& view : views) all.push_back(Shown(std::move(view)));
    if (last) return all;
    after = all.back().model.model_name;
  }
}

absl::Status Registry::ApplyUpdate(const ModelUpdate& update, Model& model) const {
  const auto has = [&](std::string_view field) {
    return std::ranges::find(update.mask, field) != update.mask.end();
  };
  const Model before = model;
  if (has("trust_remote_code")) model.trust_remote_code = update.trust_remote_code;
  if (has("allow_patterns")) model.filter.allow_patterns = update.filter.allow_patterns;
  if (has("ignore_patterns")) model.filter.ignore_patterns = update.filter.ignore_patterns;
  RETURN_IF_ERROR(ValidateFileFilter(model.filter));
  if (has("revision")) {
    model.revision = RevisionOr(update.revision);
    RETURN_IF_ERROR(ValidateRevision(model.revision));
  }
  if (has("estimated_size_bytes")) {
    if (update.estimated_size_bytes < 0 ||
        update.estimated_size_bytes > kEstimateMbMax * kBytesPerMb) {
      return InvalidField("estimated_size_bytes", "is not in 0 to 10^18");
    }
    model.estimated_size_bytes = update.estimated_size_bytes;
  }
  if (has("token_credential")) {
    RETURN_IF_ERROR(ValidateTokenCredential(update.token_credential));
    model.token_credential = update.token_credential;
  }
  if (has("hf_path")) {
    RETURN_IF_ERROR(ValidateRepoId(update.hf_path));
    model.hf_path = update.hf_path;
  }
  if (has("cache_location") || has("cache_path")) {
    const std::string location = has("cache_location")
                                     ? update.cache_location
                                     : std::string(CacheLocationName(before.cache_location));
    ASSIGN_OR_RETURN(const CachePlace place,
                     PlaceOf(location, has("cache_path") ? update.cache_path : std::string()));
    model.cache_location = place.location;
    model.cache_path = place.cache_path;
  }
  if (model.hf_path != before.hf_path || model.revision != before.revision) {
    ForgetCommit(model);
  }
  if (model.trust_remote_code != before.trust_remote_code || model.filter != before.filter) {
    model.inspection_json.clear();
  }
  return absl::OkStatus();
}

absl::Status Registry::CheckNotUsed(const std::string& model_name) {
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(model_name));
  ASSIGN_OR_RETURN(const std::vector<Copy> copies, parts_.tables.copies.List(model.id));
  if (!copies.empty()) {
    return Error(Reason::kModelInUse,
                 "model \"" + model_name + "\" has files at " + copies.front().snapshot_path +
                     "; delete it with its files and register it anew",
                 {{"snapshot_path", copies.front().snapshot_path}});
  }
  ASSIGN_OR_RETURN(const std::vector<Operation> operations,
                   parts_.tables.operations.List(model_name, "", kPage));
  for (const Operation& operation : operations) {
    if (operation.done() || operation.model_id != model.id) continue;
    return Error(Reason::kModelInUse,
                 "model \"" + model_name + "\" is in operation " + operation.name,
                 {{"operation", operation.name}});
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelView> Registry::Update(const ModelUpdate& update) {
  RETURN_IF_ERROR(ValidateModelName(update.model_name));
  static constexpr std::string_view kFields[] = {
      "trust_remote_code", "revision", "allow_patterns", "ignore_patterns", "estimated_size_bytes",
      "token_credential",  "hf_path",  "cache_location", "cache_path"};
  if (update.mask.empty()) return InvalidField("update_mask", "names no field");
  for (const std::string& field : update.mask) {
    if (std::ranges::find(kFields, field) == std::end(kFields)) {
      return InvalidField("update_mask", "\"" + field.substr(0, 100) + "\" cannot be changed");
    }
  }
  if (std::ranges::any_of(update.mask, Moves)) {
    RETURN_IF_ERROR(CheckNotUsed(update.model_name));
  }
  RETURN_IF_ERROR(
      parts_.tables.models
          .Update(update.model_name, [&](Model& model) { return ApplyUpdate(update, model); })
          .status());
  return Get(update.model_name);
}

absl::StatusOr<RepoNeeds> Registry::NeedsOf(const std::string& cache_path,
                                            const std::string& hf_path, int64_t except) {
  ASSIGN_OR_RETURN(std::vector<Model> models, parts_.tables.models.ListByRepo(cache_path, hf_path));
  if (cache_path == options_.roots.primary) {
    // Rows of the predecessor that name no path.
    ASSIGN_OR_RETURN(const std::vector<Model> unplaced,
                     parts_.tables.models.ListByRepo("", hf_path));
    models.insert(models.end(), unplaced.begin(), unplaced.end());
  }
  RepoNeeds needs;
  for (const Model& model : models) {
    if (model.id == except) continue;
    if (!model.commit.empty()) needs.commits.emplace(model.commit, model.model_name);
    ASSIGN_OR_RETURN(const std::vector<Copy> copies, parts_.tables.copies.List(model.id));
    for (const Copy& copy : copies) needs.commits.emplace(copy.commit, model.model_name);
    ASSIGN_OR_RETURN(const std::vector<Operation> operations,
                     parts_.tables.operations.List(model.model_name, "", kPage));
    for (const Operation& operation : operations) {
      needs.has_operation |= !operation.done() && operation.model_id == model.id;
    }
  }
  return needs;
}

absl::StatusOr<int64_t> Registry::DeleteFiles(const Model& model, const std::vector<Copy>& copies) {
  const std::string cache_path = CachePathOf(model);
  std::set<std::string> commits;
  if (!model.commit.empty()) commits.insert(model.commit);
  for (const Copy& copy : copies) {
    if (copy.node_id == options_.node_id && copy.cache_path == cache_path) {
      commits.insert(copy.commit);
    }
  }
  ASSIGN_OR_RETURN(const RepoNeeds others, NeedsOf(cache_path, model.hf_path, model.id));
  const RepoCache cache(cache_path, model.hf_path);
  int64_t freed = 0;
  for (const std::string& commit : commits) {
    if (others.commits.contains(commit)) continue;
    ASSIGN_OR_RETURN(const Removal removal,
                     cache.DeleteRevision(commit, {.keep_parts = others.has_operation}));
    freed += removal.freed_bytes();
  }
  return freed;
}

absl::StatusOr<int64_t> Registry::Delete(const std::string& model_name, bool delete_files) {
  RETURN_IF_ERROR(ValidateModelName(model_name));
  ASSIGN_OR_RETURN(const Model model, parts_.tables.models.Get(model_name));
  for (const Instance& instance : parts_.engines.List()) {
    if (instance.model_name != model_name) continue;
    return Error(Reason::kModelInUse, "model \"" + model_name + "\" is loaded",
                 {{"instance", instance.instance_id}});
  }
  if (delete_files) {
    RETURN_IF_ERROR(RepoCache(CachePathOf(model), model.hf_path).CheckWritable());
  }
  // The rows of its copies go with its row.
  ASSIGN_OR_RETURN(const std::vector<Copy> copies, parts_.tables.copies.List(model.id));
  RETURN_IF_ERROR(parts_.tables.models.Delete(model_name));
  parts_.metrics.ForgetModel(model_name);
  int64_t freed = 0;
  if (delete_files) {
    ASSIGN_OR_RETURN(freed, DeleteFiles(model, copies));
  }
  LogInfo("model_deleted", {{"model", model_name}, {"freed_bytes", freed}});
  return freed;
}

absl::StatusOr<SpaceCheck> Registry::CheckSpace(const SpaceRequest& request, std::stop_token stop) {
  RETURN_IF_ERROR(ValidateEstimate(request.estimated_size_mb));
  ASSIGN_OR_RETURN(const CachePlace place, PlaceOf(request.cache_location, request.cache_path));
  int64_t required = request.estimated_size_mb > 0 ? request.estimated_size_mb * kBytesPerMb : -1;
  if (!request.hf_path.empty()) {
    Model model;
    model.hf_path = request.hf_path;
    model.revision = RevisionOr(request.revision);
    model.cache_path = place.cache_path;
    model.token_credential = request.token_credential;
    RETURN_IF_ERROR(ValidateRepoId(model.hf_path));
    RETURN_IF_ERROR(ValidateRevision(model.revision));
    ASSIGN_OR_RETURN(const Sizing sizing, AskHub(model, stop));
    if (sizing.known) required = sizing.missing_bytes;
  }
  return SpaceFor(place.cache_path, required);
}

std::vector<NamedCache> Registry::ConfiguredCaches() const {
  std::vector<NamedCache> caches = ConfiguredRoom();
  for (NamedCache& cache : caches) {
    auto summary = SummarizeCache(cache.summary.cache_path);
    if (summary.ok()) {
      cache.summary = *std::move(summary);
    } else {
      LogWarning("cache_not_read",
                 {{"cache", cache.summary.cache_path}, {"error", summary.status()}});
    }
  }
  return caches;
}

std::vector<NamedCache> Registry::ConfiguredRoom() const {
  std::vector<NamedCache> caches;
  const auto add = [&](std::string_view name, const std::string& path) {
    if (path.empty()) return;
    auto filesystem = FilesystemOf(path);
    if (!filesystem.ok()) {
      LogWarning("cache_not_read", {{"cache", path}, {"error", filesystem.status()}});
      return;
    }
    caches.push_back({std::string(name), {.cache_path = path, .filesystem = *filesystem}});
  };
  add("primary", options_.roots.primary);
  add("secondary", options_.roots.secondary);
  return caches;
}

absl::StatusOr<std::vector<NamedCache>> Registry::ListCaches() {
  ASSIGN_OR_RETURN(const std::vector<ModelView> views, ListAll());
  std::vector<NamedCache> caches = ConfiguredCaches();
  std::set<std::string> seen = {options_.roots.primary, options_.roots.secondary};
  for (const ModelView& view : views) {
    const std::string& path = view.model.cache_path;
    if (!seen.insert(path).second) continue;
    auto summary = SummarizeCache(path);
    if (!summary.ok()) {
      LogWarning("cache_not_read", {{"cache", path}, {"error", summary.status()}});
      continue;
    }
    caches.push_back({"custom", *std::move(summary)});
  }
  return caches;
}

}  // namespace modeld
