// The daemons that share the database, and what each has in memory.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/control/registry.h"
#include "server/control/tables.h"
#include "server/core/model.h"
#include "server/engines/engines.h"

namespace modeld {

struct NodeCacheRoom {
  std::string name;  // "primary", "secondary", "custom"
  std::string path;
  int64_t free_bytes = 0;
};

struct NodeView {
  Node node;
  std::vector<NodeCacheRoom> caches;
};

struct NodeDevice {
  std::string node_name;
  DeviceInfo device;
};

struct NodeInstance {
  std::string node_name;
  Instance instance;
};

// Thread-safe. DATABASE_UNAVAILABLE.
class Nodes {
 public:
  struct Options {
    std::string node_id;
    std::string node_name;
    std::string address;  // of our gRPC server, for others
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    Engines& engines;
  };

  Nodes(const Options& options, const Parts& parts)
      : options_(options), parts_(parts), address_(options.address) {}

  // The bound address, where the configured one left the port open.
  void SetAddress(const std::string& address);
  // Says that this node lives and what it has; every 10 s.
  absl::Status Heartbeat();

  absl::StatusOr<std::vector<NodeView>> List();               // by name
  absl::StatusOr<std::vector<NodeDevice>> ListDevices();      // by node and device; ours are fresh
  absl::StatusOr<std::vector<NodeInstance>> ListInstances();  // by model_name; ours are fresh

 private:
  const Options options_;
  const Parts parts_;
  Mutex mutex_;
  std::string address_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
