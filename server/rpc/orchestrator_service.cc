#include "server/rpc/orchestrator_service.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "server/base/status.h"
#include "server/rpc/wait_call.h"
#include "server/rpc/watch.h"
#include "server/wire/convert.h"

namespace modeld {
namespace {

// WatchOperation: at most 10 messages a second.
constexpr std::chrono::milliseconds kWatchPause{100};

std::string Method(const char* name) { return std::string("modeld.v1.Orchestrator/") + name; }

DownloadRequest DownloadOf(const auto& request) {
  DownloadRequest out;
  out.model_name = request.model_name();
  out.revision = request.revision();
  out.filter = {
      .allow_patterns = {request.allow_patterns().begin(), request.allow_patterns().end()},
      .ignore_patterns = {request.ignore_patterns().begin(), request.ignore_patterns().end()}};
  return out;
}

v1::DownloadLimits ToProto(const std::string& operation, const DownloadPool::Limits& limits) {
  v1::DownloadLimits out;
  out.set_name(operation);
  out.set_bytes_per_second(limits.bytes_per_second);
  out.set_connections(limits.connections);
  out.set_connections_per_host(limits.connections_per_host);
  return out;
}

v1::Device ToProto(const NodeDevice& node_device) {
  const DeviceInfo& device = node_device.device;
  v1::Device out;
  out.set_node(node_device.node_name);
  out.set_kind(device.kind);
  out.set_name(device.name);
  out.set_total_bytes(device.total_bytes);
  out.set_used_bytes(device.used_bytes);
  out.set_free_bytes(std::max<int64_t>(device.total_bytes - device.used_bytes, 0));
  out.mutable_model_bytes()->insert(device.model_bytes.begin(), device.model_bytes.end());
  out.set_foreign_bytes(device.foreign_bytes);
  out.set_product(device.product);
  out.set_uuid(device.uuid);
  return out;
}

v1::Node ToProto(const NodeView& view) {
  v1::Node out;
  out.set_node(view.node.name);
  out.set_node_id(view.node.node_id);
  out.set_address(view.node.address);
  *out.mutable_heartbeat_time() = modeld::ToProto(view.node.heartbeat_time);
  for (const NodeCacheRoom& cache : view.caches) {
    auto* room = out.add_caches();
    room->set_name(cache.name);
    room->set_path(cache.path);
    room->set_free_bytes(cache.free_bytes);
  }
  return out;
}

}  // namespace

grpc::ServerUnaryReactor* OrchestratorService::AnswerOperation(
    grpc::CallbackServerContext* context, const char* method, v1::Operation* response,
    std::function<absl::StatusOr<Operation>()> work) {
  return calls_.Answer(context, Method(method),
                       [response, work = std::move(work)]() -> absl::Status {
                         ASSIGN_OR_RETURN(const Operation operation, work());
                         *response = modeld::ToProto(operation);
                         return absl::OkStatus();
                       });
}

grpc::ServerUnaryReactor* OrchestratorService::LoadModel(grpc::CallbackServerContext* context,
                                                         const v1::LoadModelRequest* request,
                                                         v1::Operation* response) {
  return AnswerOperation(context, "LoadModel", response, [=, this] {
    return operations_.Load({.model_name = request->model_name(),
                             .revision = request->revision(),
                             .spec = FromProto(*request),
                             .pin = request->pin()});
  });
}

grpc::ServerUnaryReactor* OrchestratorService::UnloadModel(grpc::CallbackServerContext* context,
                                                           const v1::UnloadModelRequest* request,
                                                           v1::Operation* response) {
  return AnswerOperation(context, "UnloadModel", response,
                         [=, this] { return operations_.Unload(request->model_name()); });
}

grpc::ServerUnaryReactor* OrchestratorService::DownloadModel(
    grpc::CallbackServerContext* context, const v1::DownloadModelRequest* request,
    v1::Operation* response) {
  return AnswerOperation(context, "DownloadModel", response, [=, this] {
    DownloadRequest download = DownloadOf(*request);
    download.priority = request->priority();
    download.bytes_per_second_max = request->bytes_per_second_max();
    return operations_.Download(download);
  });
}

grpc::ServerUnaryReactor* OrchestratorService::PlanDownload(grpc::CallbackServerContext* context,
                                                            const v1::PlanDownloadRequest* request,
                                                            v1::PlanDownloadResponse* response) {
  return calls_.Answer(context, Method("PlanDownload"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const DownloadPlan plan, operations_.Plan(DownloadOf(*request), {}));
    for (const FileProgress& file : plan.files) *response->add_files() = modeld::ToProto(file);
    for (const LeftOutFile& left : plan.left_out) {
      v1::LeftOutFile& file = *response->add_left_out();
      file.set_path(left.file.path);
      file.set_size_bytes(left.file.size_bytes);
      file.set_why(left.why);
    }
    response->set_fetch_bytes(plan.fetch_bytes);
    response->set_present_bytes(plan.present_bytes);
    response->set_free_after_bytes(plan.free_after_bytes);
    response->set_commit(plan.commit);
    if (plan.inspection) *response->mutable_preflight() = modeld::ToProto(*plan.inspection);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OrchestratorService::GetOperation(grpc::CallbackServerContext* context,
                                                            const v1::GetOperationRequest* request,
                                                            v1::Operation* response) {
  return AnswerOperation(context, "GetOperation", response,
                         [=, this] { return operations_.Get(request->name()); });
}

grpc::ServerUnaryReactor* OrchestratorService::ListOperations(
    grpc::CallbackServerContext* context, const v1::ListOperationsRequest* request,
    v1::ListOperationsResponse* response) {
  return calls_.Answer(context, Method("ListOperations"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(
        const OperationsPage page,
        operations_.List(request->model_name(), request->page_size(), request->page_token()));
    for (const Operation& operation : page.operations) {
      *response->add_operations() = modeld::ToProto(operation);
    }
    response->set_next_page_token(page.next_page_token);
    return absl::OkStatus();
  });
}

grpc::ServerWriteReactor<v1::Operation>* OrchestratorService::WatchOperation(
    grpc::CallbackServerContext* /*context*/, const v1::WatchOperationRequest* request) {
  const std::string name = request->name();
  return new WatchStream<v1::Operation>(
      calls_, changes_,
      {.method = Method("WatchOperation"), .topic = "operation:" + name, .pause = kWatchPause},
      [this, name]() -> absl::StatusOr<Look<v1::Operation>> {
        ASSIGN_OR_RETURN(const Operation operation, operations_.Get(name));
        return Look<v1::Operation>{.messages = {modeld::ToProto(operation)},
                                   .last = operation.done()};
      });
}

grpc::ServerUnaryReactor* OrchestratorService::WaitOperation(
    grpc::CallbackServerContext* /*context*/, const v1::WaitOperationRequest* request,
    v1::Operation* response) {
  std::optional<std::chrono::milliseconds> timeout;
  if (request->has_timeout()) timeout = FromProto(request->timeout());
  return new WaitCall(
      calls_, changes_, operations_,
      {.method = Method("WaitOperation"), .operation = request->name(), .timeout = timeout},
      response);
}

grpc::ServerUnaryReactor* OrchestratorService::CancelOperation(
    grpc::CallbackServerContext* context, const v1::CancelOperationRequest* request,
    v1::Operation* response) {
  return AnswerOperation(context, "CancelOperation", response,
                         [=, this] { return operations_.Cancel(request->name()); });
}

grpc::ServerUnaryReactor* OrchestratorService::PauseOperation(
    grpc::CallbackServerContext* context, const v1::PauseOperationRequest* request,
    v1::Operation* response) {
  return AnswerOperation(context, "PauseOperation", response,
                         [=, this] { return operations_.Pause(request->name()); });
}

grpc::ServerUnaryReactor* OrchestratorService::ResumeOperation(
    grpc::CallbackServerContext* context, const v1::ResumeOperationRequest* request,
    v1::Operation* response) {
  return AnswerOperation(context, "ResumeOperation", response,
                         [=, this] { return operations_.Resume(request->name()); });
}

grpc::ServerUnaryReactor* OrchestratorService::GetDownloadLimits(
    grpc::CallbackServerContext* context, const v1::GetDownloadLimitsRequest* request,
    v1::DownloadLimits* response) {
  return calls_.Answer(context, Method("GetDownloadLimits"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const DownloadPool::Limits limits, operations_.Limits(request->name()));
    *response = ToProto(request->name(), limits);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OrchestratorService::SetDownloadLimits(
    grpc::CallbackServerContext* context, const v1::SetDownloadLimitsRequest* request,
    v1::DownloadLimits* response) {
  return calls_.Answer(context, Method("SetDownloadLimits"), [=, this]() -> absl::Status {
    LimitsChange change{.operation = request->name()};
    if (request->has_bytes_per_second()) change.bytes_per_second = request->bytes_per_second();
    if (request->has_connections()) change.connections = request->connections();
    if (request->has_connections_per_host()) {
      change.connections_per_host = request->connections_per_host();
    }
    ASSIGN_OR_RETURN(const DownloadPool::Limits limits, operations_.SetLimits(change));
    *response = ToProto(request->name(), limits);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OrchestratorService::ListInstances(
    grpc::CallbackServerContext* context, const v1::ListInstancesRequest* /*request*/,
    v1::ListInstancesResponse* response) {
  return calls_.Answer(context, Method("ListInstances"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<NodeInstance> instances, nodes_.ListInstances());
    for (const NodeInstance& entry : instances) {
      *response->add_instances() = modeld::ToProto(entry.instance, entry.node_name);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OrchestratorService::ListDevices(
    grpc::CallbackServerContext* context, const v1::ListDevicesRequest* /*request*/,
    v1::ListDevicesResponse* response) {
  return calls_.Answer(context, Method("ListDevices"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<NodeDevice> devices, nodes_.ListDevices());
    for (const NodeDevice& device : devices) *response->add_devices() = ToProto(device);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* OrchestratorService::ListNodes(grpc::CallbackServerContext* context,
                                                         const v1::ListNodesRequest* /*request*/,
                                                         v1::ListNodesResponse* response) {
  return calls_.Answer(context, Method("ListNodes"), [=, this]() -> absl::Status {
    ASSIGN_OR_RETURN(const std::vector<NodeView> nodes, nodes_.List());
    for (const NodeView& node : nodes) *response->add_nodes() = ToProto(node);
    return absl::OkStatus();
  });
}

}  // namespace modeld
