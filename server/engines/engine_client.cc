#include "server/engines/engine_client.h"

#include <grpcpp/client_context.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <optional>
#include <utility>

#include "modeld/engine/v1/engine.grpc.pb.h"
#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

namespace enginepb = modeld::engine::v1;

constexpr int kMessageBytesMax = 64 << 20;
constexpr int kStreamWindowBytes = 65536;
constexpr int kReconnectMs = 50;
constexpr int kReconnectMaxMs = 500;
// What an engine may take beyond the drain it was asked for before it counts as stuck.
constexpr auto kDrainGrace = std::chrono::seconds(2);

}  // namespace

std::shared_ptr<grpc::Channel> MakeEngineChannel(const std::string& socket_path) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
  arguments.SetMaxSendMessageSize(kMessageBytesMax);
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, kStreamWindowBytes);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMaxMs);
  // Each engine has a connection of its own, also where channels look alike.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // A machine's proxy settings are not for a local socket.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel("unix:" + socket_path, grpc::InsecureChannelCredentials(),
                                   arguments);
}

absl::StatusOr<enginepb::Ready> EngineClient::Load(const enginepb::LoadRequest& request,
                                                   std::chrono::system_clock::time_point deadline,
                                                   const OnProgress& on_progress,
                                                   std::stop_token stop) {
  grpc::ClientContext context;
  context.set_deadline(deadline);
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  const auto stub = enginepb::Engine::NewStub(channel_);
  const auto reader = stub->Load(&context, request);
  std::optional<enginepb::Ready> ready;
  for (enginepb::LoadResponse message; reader->Read(&message);) {
    if (message.bytes_total() > 0 && on_progress) {
      on_progress(message.bytes_done(), message.bytes_total());
    }
    if (message.has_ready()) ready = message.ready();
  }
  const grpc::Status status = reader->Finish();
  if (stop.stop_requested()) return absl::CancelledError("the load was stopped");
  if (!status.ok()) return FromGrpcStatus(status);
  if (!ready) return Error(Reason::kInternal, "the engine ended its Load without saying ready");
  return *std::move(ready);
}

void EngineClient::StreamStats(const std::function<void(const enginepb::StatsResponse&)>& on_stats,
                               std::stop_token stop) {
  grpc::ClientContext context;
  const std::stop_callback cancel(stop, [&] { context.TryCancel(); });
  const auto stub = enginepb::Engine::NewStub(channel_);
  const auto reader = stub->Stats(&context, enginepb::StatsRequest());
  for (enginepb::StatsResponse stats; reader->Read(&stats);) {
    if (stop.stop_requested()) break;
    on_stats(stats);
  }
  context.TryCancel();
  // Always an error: cancelled by us, or the engine is gone, which its process tells with more
  // detail.
  static_cast<void>(reader->Finish());
}

absl::StatusOr<enginepb::StatsResponse> EngineClient::ReadStats(std::chrono::milliseconds timeout) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  const auto stub = enginepb::Engine::NewStub(channel_);
  const auto reader = stub->Stats(&context, enginepb::StatsRequest());
  enginepb::StatsResponse stats;
  const bool answered = reader->Read(&stats);
  context.TryCancel();
  const grpc::Status status = reader->Finish();
  return answered ? absl::StatusOr<enginepb::StatsResponse>(std::move(stats))
                  : FromGrpcStatus(status);
}

absl::StatusOr<int64_t> EngineClient::Drain(std::chrono::milliseconds timeout) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout + kDrainGrace);
  enginepb::DrainRequest request;
  request.set_timeout_ms(timeout.count());
  enginepb::DrainResponse response;
  const auto stub = enginepb::Engine::NewStub(channel_);
  if (const grpc::Status status = stub->Drain(&context, request, &response); !status.ok()) {
    return FromGrpcStatus(status);
  }
  return response.cut_off();
}

}  // namespace modeld
