// grpc.health.v1.Health, served by ourselves so that reflection describes it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "grpc/health/v1/health.grpc.pb.h"
#include "server/base/mutex.h"

namespace modeld {

// Thread-safe. Every open Watch hears of each change; Shutdown() ends them.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // `services` are the full names that may be asked about, beside "" for the whole server. All
  // begin as NOT_SERVING.
  explicit HealthService(const std::set<std::string>& services);
  ~HealthService() override;

  void SetServing(const std::string& service, bool serving);
  // Every service and the whole server.
  void SetAllServing(bool serving);
  // NOT_SERVING for good; open Watches end once they have said so.
  void Shutdown();

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  class Watcher;
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  Status StatusOfService(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable Mutex mutex_;
  std::map<std::string, bool> serving_ ABSL_GUARDED_BY(mutex_);
  std::set<Watcher*> watchers_ ABSL_GUARDED_BY(mutex_);
  bool shutdown_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace modeld
