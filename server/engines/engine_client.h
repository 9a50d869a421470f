// Calls of modeld.engine.v1.Engine, each blocking the thread that makes it: never from a gRPC
// callback.
#pragma once

#include <grpcpp/channel.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "modeld/engine/v1/engine.pb.h"

namespace modeld {

// A channel to an engine's socket, with limits that suit a forwarding proxy: 64 MiB messages, and
// small windows, so that a slow reader does not let the engine run megabytes ahead.
std::shared_ptr<grpc::Channel> MakeEngineChannel(const std::string& socket_path);

// Thread-safe.
class EngineClient {
 public:
  explicit EngineClient(std::shared_ptr<grpc::Channel> channel) : channel_(std::move(channel)) {}

  // Errors of the engine; INTERNAL when the stream ended without `ready`; CANCELLED on stop.
  using OnProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;
  absl::StatusOr<modeld::engine::v1::Ready> Load(const modeld::engine::v1::LoadRequest& request,
                                                 std::chrono::system_clock::time_point deadline,
                                                 const OnProgress& on_progress,
                                                 std::stop_token stop);

  // Calls `on_stats` about once a second until `stop` or the end of the engine.
  void StreamStats(const std::function<void(const modeld::engine::v1::StatsResponse&)>& on_stats,
                   std::stop_token stop);

  // Its figures now.
  absl::StatusOr<modeld::engine::v1::StatsResponse> ReadStats(std::chrono::milliseconds timeout);

  // Has the engine finish its requests within `timeout`; answers how many it cut off.
  // DEADLINE_EXCEEDED when it does not answer a while after that.
  absl::StatusOr<int64_t> Drain(std::chrono::milliseconds timeout);

 private:
  const std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace modeld
