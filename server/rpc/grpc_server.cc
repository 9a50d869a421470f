#include "server/rpc/grpc_server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <future>
#include <set>
#include <thread>
#include <utility>

#include "server/base/executor.h"
#include "server/rpc/calls.h"
#include "server/rpc/health_service.h"
#include "server/rpc/inference_service.h"
#include "server/rpc/orchestrator_service.h"
#include "server/rpc/registry_service.h"

namespace modeld {
namespace {

// The contract: messages up to 64 MiB on every hop.
constexpr int kMessageBytesMax = 64 << 20;
// How long a server may take to end after its grace before it counts as stuck.
constexpr std::chrono::seconds kStuckAfter{5};

const std::set<std::string>& ServiceNames() {
  static const auto* const names = new std::set<std::string>{
      "modeld.v1.Registry", "modeld.v1.Orchestrator", "modeld.v1.Inference"};
  return *names;
}

}  // namespace

struct GrpcServer::Rep {
  Rep(const Options& options, const Parts& parts)
      : executor({.threads = options.threads}),
        routing({.threads = 2}),
        calls(executor, parts.metrics),
        health(ServiceNames()),
        registry(calls, parts.registry, parts.caches, parts.changes),
        orchestrator(calls, parts.operations, parts.nodes, parts.changes),
        inference(calls, parts.router, routing) {}

  Executor executor;
  Executor routing;
  Calls calls;
  HealthService health;
  RegistryService registry;
  OrchestratorService orchestrator;
  InferenceService inference;
  std::string address;
  std::unique_ptr<grpc::Server> server;  // last: ends before the services
};

GrpcServer::GrpcServer(std::unique_ptr<Rep> rep) : rep_(std::move(rep)) {}

GrpcServer::~GrpcServer() {
  rep_->health.Shutdown();
  rep_->server->Shutdown(std::chrono::system_clock::now());
  rep_->server->Wait();
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(const Options& options,
                                                              const Parts& parts) {
  // Linked as a plugin; the call keeps the linker from dropping it.
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  auto rep = std::make_unique<Rep>(options, parts);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(kMessageBytesMax);
  builder.SetMaxSendMessageSize(kMessageBytesMax);
  // Two daemons on one port would each get half of the calls.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.RegisterService(&rep->health);
  builder.RegisterService(&rep->registry);
  builder.RegisterService(&rep->orchestrator);
  builder.RegisterService(&rep->inference);
  rep->server = builder.BuildAndStart();
  const bool is_unix = options.address.starts_with("unix:");
  if (rep->server == nullptr || (port == 0 && !is_unix)) {
    return absl::UnavailableError("cannot listen on " + options.address);
  }
  rep->address =
      is_unix ? options.address
              : options.address.substr(0, options.address.rfind(':')) + ":" + std::to_string(port);
  return std::unique_ptr<GrpcServer>(new GrpcServer(std::move(rep)));
}

const std::string& GrpcServer::address() const { return rep_->address; }

void GrpcServer::SetServing(bool serving) { rep_->health.SetAllServing(serving); }

bool GrpcServer::Shutdown(std::chrono::milliseconds grace) {
  rep_->health.Shutdown();
  // Shutdown(deadline) is not bounded when a peer stops reading, so it gets a thread that may be
  // left.
  std::promise<void> ended;
  std::future<void> end = ended.get_future();
  std::thread waiter([this, grace, ended = std::move(ended)]() mutable {
    rep_->server->Shutdown(std::chrono::system_clock::now() + grace);
    ended.set_value();
  });
  const bool in_time = end.wait_for(grace + kStuckAfter) == std::future_status::ready;
  if (in_time) {
    waiter.join();
  } else {
    waiter.detach();
  }
  return in_time;
}

}  // namespace modeld
