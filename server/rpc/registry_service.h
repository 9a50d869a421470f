// modeld.v1.Registry: converts, calls control, converts back.
#pragma once

#include "modeld/v1/registry.grpc.pb.h"
#include "server/control/caches.h"
#include "server/control/changes.h"
#include "server/control/registry.h"
#include "server/rpc/calls.h"

namespace modeld {

// Thread-safe. Methods that later work brings answer UNIMPLEMENTED METHOD_NOT_SUPPORTED.
class RegistryService final : public v1::Registry::CallbackService {
 public:
  RegistryService(Calls& calls, Registry& registry, Caches& caches, Changes& changes)
      : calls_(calls), registry_(registry), caches_(caches), changes_(changes) {}

  grpc::ServerUnaryReactor* RegisterModel(grpc::CallbackServerContext* context,
                                          const v1::RegisterModelRequest* request,
                                          v1::RegisterModelResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::Model* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;
  grpc::ServerUnaryReactor* UpdateModel(grpc::CallbackServerContext* context,
                                        const v1::UpdateModelRequest* request,
                                        v1::Model* response) override;
  grpc::ServerUnaryReactor* DeleteModel(grpc::CallbackServerContext* context,
                                        const v1::DeleteModelRequest* request,
                                        v1::DeleteModelResponse* response) override;
  grpc::ServerUnaryReactor* CheckSpace(grpc::CallbackServerContext* context,
                                       const v1::CheckSpaceRequest* request,
                                       v1::SpaceCheck* response) override;
  grpc::ServerUnaryReactor* ListCaches(grpc::CallbackServerContext* context,
                                       const v1::ListCachesRequest* request,
                                       v1::ListCachesResponse* response) override;
  grpc::ServerUnaryReactor* ScanCaches(grpc::CallbackServerContext* context,
                                       const v1::ScanCachesRequest* request,
                                       v1::ScanCachesResponse* response) override;
  grpc::ServerUnaryReactor* AdoptModel(grpc::CallbackServerContext* context,
                                       const v1::AdoptModelRequest* request,
                                       v1::Model* response) override;
  grpc::ServerWriteReactor<v1::VerifyModelResponse>* VerifyModel(
      grpc::CallbackServerContext* context, const v1::VerifyModelRequest* request) override;
  grpc::ServerUnaryReactor* DeleteRevision(grpc::CallbackServerContext* context,
                                           const v1::DeleteRevisionRequest* request,
                                           v1::DeleteRevisionResponse* response) override;
  grpc::ServerUnaryReactor* PruneCache(grpc::CallbackServerContext* context,
                                       const v1::PruneCacheRequest* request,
                                       v1::PruneCacheResponse* response) override;
  grpc::ServerWriteReactor<v1::WatchModelsResponse>* WatchModels(
      grpc::CallbackServerContext* context, const v1::WatchModelsRequest* request) override;

 private:
  Calls& calls_;
  Registry& registry_;
  Caches& caches_;
  Changes& changes_;
};

}  // namespace modeld
