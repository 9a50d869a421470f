// modeld.v1.Orchestrator: converts, calls control, converts back.
#pragma once

#include "modeld/v1/orchestrator.grpc.pb.h"
#include "server/control/changes.h"
#include "server/control/nodes.h"
#include "server/control/operations.h"
#include "server/rpc/calls.h"

namespace modeld {

// Thread-safe.
class OrchestratorService final : public v1::Orchestrator::CallbackService {
 public:
  OrchestratorService(Calls& calls, Operations& operations, Nodes& nodes, Changes& changes)
      : calls_(calls), operations_(operations), nodes_(nodes), changes_(changes) {}

  grpc::ServerUnaryReactor* LoadModel(grpc::CallbackServerContext* context,
                                      const v1::LoadModelRequest* request,
                                      v1::Operation* response) override;
  grpc::ServerUnaryReactor* UnloadModel(grpc::CallbackServerContext* context,
                                        const v1::UnloadModelRequest* request,
                                        v1::Operation* response) override;
  grpc::ServerUnaryReactor* DownloadModel(grpc::CallbackServerContext* context,
                                          const v1::DownloadModelRequest* request,
                                          v1::Operation* response) override;
  grpc::ServerUnaryReactor* PlanDownload(grpc::CallbackServerContext* context,
                                         const v1::PlanDownloadRequest* request,
                                         v1::PlanDownloadResponse* response) override;
  grpc::ServerUnaryReactor* GetOperation(grpc::CallbackServerContext* context,
                                         const v1::GetOperationRequest* request,
                                         v1::Operation* response) override;
  grpc::ServerUnaryReactor* ListOperations(grpc::CallbackServerContext* context,
                                           const v1::ListOperationsRequest* request,
                                           v1::ListOperationsResponse* response) override;
  grpc::ServerWriteReactor<v1::Operation>* WatchOperation(
      grpc::CallbackServerContext* context, const v1::WatchOperationRequest* request) override;
  grpc::ServerUnaryReactor* WaitOperation(grpc::CallbackServerContext* context,
                                          const v1::WaitOperationRequest* request,
                                          v1::Operation* response) override;
  grpc::ServerUnaryReactor* CancelOperation(grpc::CallbackServerContext* context,
                                            const v1::CancelOperationRequest* request,
                                            v1::Operation* response) override;
  grpc::ServerUnaryReactor* PauseOperation(grpc::CallbackServerContext* context,
                                           const v1::PauseOperationRequest* request,
                                           v1::Operation* response) override;
  grpc::ServerUnaryReactor* ResumeOperation(grpc::CallbackServerContext* context,
                                            const v1::ResumeOperationRequest* request,
                                            v1::Operation* response) override;
  grpc::ServerUnaryReactor* GetDownloadLimits(grpc::CallbackServerContext* context,
                                              const v1::GetDownloadLimitsRequest* request,
                                              v1::DownloadLimits* response) override;
  grpc::ServerUnaryReactor* SetDownloadLimits(grpc::CallbackServerContext* context,
                                              const v1::SetDownloadLimitsRequest* request,
                                              v1::DownloadLimits* response) override;
  grpc::ServerUnaryReactor* ListInstances(grpc::CallbackServerContext* context,
                                          const v1::ListInstancesRequest* request,
                                          v1::ListInstancesResponse* response) override;
  grpc::ServerUnaryReactor* ListDevices(grpc::CallbackServerContext* context,
                                        const v1::ListDevicesRequest* request,
                                        v1::ListDevicesResponse* response) override;
  grpc::ServerUnaryReactor* ListNodes(grpc::CallbackServerContext* context,
                                      const v1::ListNodesRequest* request,
                                      v1::ListNodesResponse* response) override;

 private:
  // Answers with the operation that `work` gives.
  grpc::ServerUnaryReactor* AnswerOperation(grpc::CallbackServerContext* context,
                                            const char* method, v1::Operation* response,
                                            std::function<absl::StatusOr<Operation>()> work);

  Calls& calls_;
  Operations& operations_;
  Nodes& nodes_;
  Changes& changes_;
};

}  // namespace modeld
