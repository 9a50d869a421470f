#include "server/rpc/registry_service.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "server/control/model_watch.h"
#include "server/core/reason.h"
#include "server/rpc/refused_stream.h"
#include "server/rpc/watch.h"
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
                                           .estimated_size_mb = request->estimated_size_mb()},
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
                                                      const v1::ScanCachesRequest* /*request*/,
                                                      v1::ScanCachesResponse* /*response*/) {
  return calls_.Answer(context, Method("ScanCaches"),
                       [] { return MethodNotSupported("Registry.ScanCaches"); });
}

grpc::ServerUnaryReactor* RegistryService::AdoptModel(grpc::CallbackServerContext* context,
                                                      const v1::AdoptModelRequest* /*request*/,
                                                      v1::Model* /*response*/) {
  return calls_.Answer(context, Method("AdoptModel"),
                       [] { return MethodNotSupported("Registry.AdoptModel"); });
}

grpc::ServerWriteReactor<v1::VerifyModelResponse>* RegistryService::VerifyModel(
    grpc::CallbackServerContext* /*context*/, const v1::VerifyModelRequest* /*request*/) {
  return new RefusedStream<v1::VerifyModelResponse>(calls_, Method("VerifyModel"),
                                                    MethodNotSupported("Registry.VerifyModel"));
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
