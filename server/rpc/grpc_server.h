// The gRPC server of the daemon: all services, health and reflection on one port.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/control/caches.h"
#include "server/control/changes.h"
#include "server/control/nodes.h"
#include "server/control/operations.h"
#include "server/control/registry.h"
#include "server/control/router.h"
#include "server/metrics/metrics.h"

namespace modeld {

// Thread-safe. The destructor shuts down without grace.
class GrpcServer {
 public:
  struct Options {
    std::string address = "127.0.0.1:50051";  // HOST:PORT or unix:PATH; port 0: any free one
    int threads = 16;                         // for calls that block (database, disk, hub)
  };
  struct Parts {
    Registry& registry;
    Caches& caches;
    Operations& operations;
    Nodes& nodes;
    Router& router;
    Changes& changes;
    Metrics& metrics;
  };

  // UNAVAILABLE when the address cannot be bound. All services begin as NOT_SERVING.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(const Options& options,
                                                           const Parts& parts);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  // HOST:PORT with the port that was bound.
  const std::string& address() const;

  void SetServing(bool serving);

  // NOT_SERVING, then no new calls, then waits for the running ones at most `grace` and cancels the
  // rest. False when a peer that does not read kept it from ending a while longer: the process must
  // then end without destroying this object.
  bool Shutdown(std::chrono::milliseconds grace);

 private:
  struct Rep;
  explicit GrpcServer(std::unique_ptr<Rep> rep);
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
