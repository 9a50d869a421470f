#include "server/rpc/registry_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "server/control/model_watch.h"
#include "server/core/reason.h"
#include "server/rpc/watch.h"
#include "server/rpc/work_stream.h"
#include "server/wire/convert.h"

namespace modeld {
namespace {

std::string Method(const char* name) { return std::string("modeld.v1.Registry/") + name; }

FileFilter FilterOf(const auto& message) {
  return {.allow_patterns = {message.allow_patterns().begin(), message.allow_patterns().end()},
          .ignore_patterns = {message.ignore_patterns().begin(), message.ignore_patterns().end()}};
}

RegisterRequest FromProto(const v1::RegisterModelRequest& request) {
  return {.model_name = request.model_name(),
          .hf_path = request.hf_path(),
          .revision = request.revision(),
          .trust_remote_code = request.trust_remote_code(),
          .cache_location = request.cache_location(),
          .cache_path = request.cache_path(),
          .estimated_size_mb = request.estimated_size_mb(),
          .filter = FilterOf(request),
          .token_credential = request.token_credential()};
}

ModelUpdate FromProto(const v1::UpdateModelRequest& request) {
  const v1::Model& model = request.model();
  return {.model_name = model.model_name(),
          .mask = {request.update_mask().paths().begin(), request.update_mask().paths().end()},
          .trust_remote_code = model.trust_remote_code(),
          .revision = model.revision(),
          .filter = FilterOf(model),
          .hf_path = model.hf_path(),
          .cache_location = model.cache_location(),
          .cache_path = model.cache_path(),
          .estimated_size_bytes = model.estimated_size_bytes(),
          .token_credential = model.token_credential()};
}

v1::SpaceCheck ToProto(const SpaceCheck& check) {
  v1::SpaceCheck out;
  out.set_cache_path(check.cache_path);
  out.set_required_bytes(std::max<int64_t>(check.required_bytes, 0));
  out.set_free_bytes(check.free_bytes);
  out.set_sufficient(check.sufficient);
  out.set_warning(check.warning);
  out.set_message(check.message);
  return out;
}

v1::Cache ToProto(const NamedCache& cache) {
  v1::Cache out;
  out.set_name(cache.name);
  out.set_path(cache.summary.cache_path);
  out.set_filesystem(cache.summary.filesystem.type);
  out.set_total_bytes(cache.summary.filesystem.total_bytes);
  out.set_free_bytes(cache.summary.filesystem.free_bytes);
  out.set_used_bytes(cache.summary.used_bytes);
  out.set_repository_count(cache.summary.repositories);
  return out;
}

v1::CachedRevision ToProto(const CachedRevision& revision, bool with_files) {
  v1::CachedRevision out;
  out.set_commit(revision.commit);
  out.mutable_refs()->Assign(revision.refs.begin(), revision.refs.end());
  out.set_snapshot_path(revision.snapshot_path);
  out.set_size_bytes(revision.size_bytes);
  *out.mutable_last_modified_time() = modeld::ToProto(revision.last_modified);
  for (const CachedFile& file : revision.files) {
    if (!with_files) break;
    v1::CachedFile& to = *out.add_files();
    to.set_path(file.path);
    to.set_size_bytes(file.size_bytes);
    to.set_blob(file.blob());
    to.set_shared(file.shared);
    *to.mutable_last_accessed_time() = modeld::ToProto(file.last_accessed);
    *to.mutable_last_modified_time() = modeld::ToProto(file.last_modified);
  }
  return out;
}

void AddScan(const ScannedCache& cache, bool with_files, v1::ScanCachesResponse& response) {
  const CacheScan& scan = cache.scan;
  for (const CachedRepository& repository : scan.repositories) {
    v1::CachedRepository& to = *response.add_repositories();
    to.set_cache_path(scan.cache_path);
    to.set_hf_path(repository.repo_id);
    to.set_size_bytes(repository.size_bytes);
    for (const CachedRevision& revision : repository.revisions) {
      *to.add_revisions() = ToProto(revision, with_files);
    }
    const auto name = cache.model_names.find(repository.repo_id);
    if (repository.type == "model" && name != cache.model_names.end()) {
      to.set_model_name(name->second);
    }
    to.set_repository_type(repository.type);
    to.set_path(repository.path);
    to.set_file_count(repository.file_count);
    *to.mutable_last_accessed_time() = modeld::ToProto(repository.last_accessed);
    *to.mutable_last_modified_time() = modeld::ToProto(repository.last_modified);
  }
  for (const CacheWarning& warning : scan.warnings) {
    v1::CacheWarning& to = *response.add_warnings();
    to.set_cache_path(scan.cache_path);
    to.set_path(warning.path);
    to.set_message(warning.message);
  }
  for (const PartialFile& file : scan.partial_files) {
    v1::PartialFile& to = *response.add_partial_files();
    to.set_cache_path(scan.cache_path);
    to.set_path(file.path);
    to.set_size_bytes(file.size_bytes);
    to.set_ours(file.ours);
  }
  v1::ScannedCache& to = *response.add_caches();
  to.set_cache_path(scan.cache_path);
  to.set_size_bytes(scan.size_bytes);
}

v1::VerifyModelResponse ToProto(const VerifyEvent& event) {
  v1::VerifyModelResponse out;
  out.set_bytes_done(event.bytes_done);
  out.set_bytes_total(event.bytes_total);
  out.set_path(event.path);
  out.set_result(static_cast<v1::VerifyModelResponse::Result>(event.result));
  out.set_expected_digest(event.expected_digest);
  out.set_actual_digest(event.actual_digest);
  out.set_commit(event.commit);
  out.set_files_done(static_cast<int32_t>(event.files_done));
  out.set_files_total(static_cast<int32_t>(event.files_total));
  return out;
}

void AddRemoved(const Removal& removal, auto& response) {
  for (const RemovedEntry& entry : removal.entries) {
    v1::RemovedEntry& to = *response.add_removed();
    to.set_kind(static_cast<v1::RemovedEntry::Kind>(entry.kind));
    to.set_path(entry.path);
    to.set_freed_bytes(entry.freed_bytes);
  }
}

}  // namespace

grpc::ServerUnaryReactor* RegistryService::RegisterModel(grpc::CallbackServerContext* context,
                                                         const v1::RegisterModelRequest* request,
                                                         v1::RegisterModelResponse* response) {
  return calls_.Answer(context, Method("RegisterModel"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const RegisteredModel made, registry_.Register(FromProto(*request), {}));
    *response->mutable_model() = modeld::ToProto(made.view);
    *response->mutable_space_check() = ToProto(made.space);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::GetModel(grpc::CallbackServerContext* context,
                                                    const v1::GetModelRequest* request,
                                                    v1::Model* response) {
  return calls_.Answer(context, Method("GetModel"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelView view, registry_.Get(request->model_name()));
    *response = modeld::ToProto(view);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::ListModels(grpc::CallbackServerContext* context,
                                                      const v1::ListModelsRequest* request,
                                                      v1::ListModelsResponse* response) {
  return calls_.Answer(context, Method("ListModels"), [=, this]() -> absl::Status {
    if (!v1::ModelState_IsValid(request->state())) {
      return InvalidField("state", std::to_string(request->state()) + " is no ModelState");
    }
    ASSIGN_OR_RETURN(const ModelsPage page,
                     registry_.List(request->page_size(), request->page_token(),
                                    static_cast<ModelState>(request->state())));
    for (const ModelView& view : page.models) *response->add_models() = modeld::ToProto(view);
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::UpdateModel(grpc::CallbackServerContext* context,
                                                       const v1::UpdateModelRequest* request,
                                                       v1::Model* response) {
  return calls_.Answer(context, Method("UpdateModel"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelView view, registry_.Update(FromProto(*request)));
    *response = modeld::ToProto(view);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::DeleteModel(grpc::CallbackServerContext* context,
                                                       const v1::DeleteModelRequest* request,
                                                       v1::DeleteModelResponse* response) {
  return calls_.Answer(context, Method("DeleteModel"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t freed,
                     registry_.Delete(request->model_name(), request->delete_files()));
    response->set_freed_bytes(freed);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::CheckSpace(grpc::CallbackServerContext* context,
                                                      const v1::CheckSpaceRequest* request,
                                                      v1::SpaceCheck* response) {
  return calls_.Answer(context, Method("CheckSpace"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const SpaceCheck check,
                     registry_.CheckSpace({.cache_location = request->cache_location(),
                                           .cache_path = request->cache_path(),
                                           .hf_path = request->hf_path(),
                                           .revision = request->revision(),
                                           .estimated_size_mb = request->estimated_size_mb(),
                                           .token_credential = request->token_credential()},
                                          {}));
    *response = ToProto(check);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::ListCaches(grpc::CallbackServerContext* context,
                                                      const v1::ListCachesRequest* /*request*/,
                                                      v1::ListCachesResponse* response) {
  return calls_.Answer(context, Method("ListCaches"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<NamedCache> caches, registry_.ListCaches());
    for (const NamedCache& cache : caches) *response->add_caches() = ToProto(cache);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::ScanCaches(grpc::CallbackServerContext* context,
                                                      const v1::ScanCachesRequest* request,
                                                      v1::ScanCachesResponse* response) {
  return calls_.Answer(context, Method("ScanCaches"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<ScannedCache> caches,
                     caches_.Scan(request->cache_path(), request->hf_path()));
    for (const ScannedCache& cache : caches) AddScan(cache, !request->omit_files(), *response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::AdoptModel(grpc::CallbackServerContext* context,
                                                      const v1::AdoptModelRequest* request,
                                                      v1::Model* response) {
  return calls_.Answer(context, Method("AdoptModel"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const ModelView view,
                     caches_.Adopt({.model_name = request->model_name(),
                                    .hf_path = request->hf_path(),
                                    .cache_location = request->cache_location(),
                                    .cache_path = request->cache_path(),
                                    .revision = request->revision(),
                                    .trust_remote_code = request->trust_remote_code(),
                                    .filter = FilterOf(*request),
                                    .token_credential = request->token_credential()},
                                   {}));
    *response = modeld::ToProto(view);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::VerifyModelResponse>* RegistryService::VerifyModel(
    grpc::CallbackServerContext* /*context*/, const v1::VerifyModelRequest* request) {
  using Stream = WorkStream<v1::VerifyModelResponse>;
  const VerifyRequest verify{.model_name = request->model_name(),
                             .revision = request->revision(),
                             .repair = request->repair()};
  return new Stream(calls_, Method("VerifyModel"),
                    [this, verify](const Stream::Emit& emit, std::stop_token stop) {
                      return caches_.Verify(
                          verify, [&](const VerifyEvent& event) { emit(ToProto(event)); }, stop);
                    });
}

grpc::ServerUnaryReactor* RegistryService::DeleteRevision(grpc::CallbackServerContext* context,
                                                          const v1::DeleteRevisionRequest* request,
                                                          v1::DeleteRevisionResponse* response) {
  return calls_.Answer(context, Method("DeleteRevision"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(
        const DeletedRevision deleted,
        caches_.DeleteRevision(request->model_name(), request->revision(), request->dry_run()));
    response->set_commit(deleted.commit);
    response->set_freed_bytes(deleted.removal.freed_bytes());
    AddRemoved(deleted.removal, *response);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* RegistryService::PruneCache(grpc::CallbackServerContext* context,
                                                      const v1::PruneCacheRequest* request,
                                                      v1::PruneCacheResponse* response) {
  return calls_.Answer(context, Method("PruneCache"), [=, this]() -> absl::Status {
    PruneRequest prune{.cache_path = request->cache_path(),
                       .hf_path = request->hf_path(),
                       .dry_run = request->dry_run(),
                       .detached_revisions = request->detached_revisions()};
    if (request->has_older_than()) {
      prune.older_than =
          std::chrono::floor<std::chrono::seconds>(modeld::FromProto(request->older_than()));
    }
    ASSIGN_OR_RETURN(const Removal removal, caches_.Prune(prune));
    response->set_freed_bytes(removal.freed_bytes());
    AddRemoved(removal, *response);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::WatchModelsResponse>* RegistryService::WatchModels(
    grpc::CallbackServerContext* /*context*/, const v1::WatchModelsRequest* request) {
  const auto watch = std::make_shared<ModelWatch>(registry_, request->model_name());
  return new WatchStream<v1::WatchModelsResponse>(
      calls_, changes_, {.method = Method("WatchModels"), .topic = watch->topic()},
      [watch]() -> absl::StatusOr<Look<v1::WatchModelsResponse>> {
        ASSIGN_OR_RETURN(const std::vector<ModelChange> changes, watch->Poll());
        Look<v1::WatchModelsResponse> look;
        for (const ModelChange& change : changes) {
          v1::WatchModelsResponse& message = look.messages.emplace_back();
          message.set_type(static_cast<v1::WatchModelsResponse::Type>(change.type));
          *message.mutable_model() = modeld::ToProto(change.view);
        }
        return look;
      });
}

}  // namespace modeld
