#include "server/rpc/health_service.h"

#include "server/core/reason.h"
#include "server/wire/status_wire.h"

namespace modeld {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// One open Watch. Its fields belong to the service's mutex; gRPC calls go out with it held, which
// gRPC allows: they only queue work.
class HealthService::Watcher final : public grpc::ServerWriteReactor<HealthCheckResponse> {
 public:
  Watcher(HealthService& owner, std::string service)
      : owner_(owner), service_(std::move(service)) {}

  // Sends the state when it differs from the one said last.
  void Update() ABSL_EXCLUSIVE_LOCKS_REQUIRED(owner_.mutex_) {
    if (finished_ || writing_) return;
    if (cancelled_) return FinishOnce();
    const Status now = owner_.StatusOfService(service_);
    if (now != said_) {
      said_ = now;
      message_.set_status(now);
      writing_ = true;
      StartWrite(&message_);
    } else if (owner_.shutdown_) {
      FinishOnce();
    }
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(owner_.mutex_);
    writing_ = false;
    cancelled_ |= !ok;
    Update();
  }

  void OnCancel() override {
    MutexLock lock(owner_.mutex_);
    cancelled_ = true;
    Update();
  }

  void OnDone() override {
    {
      MutexLock lock(owner_.mutex_);
      owner_.watchers_.erase(this);
    }
    delete this;
  }

 private:
  void FinishOnce() {
    finished_ = true;
    Finish(cancelled_ ? grpc::Status::CANCELLED : grpc::Status::OK);
  }

  HealthService& owner_;
  const std::string service_;
  HealthCheckResponse message_;
  Status said_ = HealthCheckResponse::UNKNOWN;
  bool writing_ = false;
  bool cancelled_ = false;
  bool finished_ = false;
};

HealthService::HealthService(const std::set<std::string>& services) {
  serving_[""] = false;
  for (const std::string& service : services) serving_[service] = false;
}

HealthService::~HealthService() = default;

HealthService::Status HealthService::StatusOfService(const std::string& service) const {
  const auto found = serving_.find(service);
  if (found == serving_.end()) return HealthCheckResponse::SERVICE_UNKNOWN;
  return found->second ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void HealthService::SetServing(const std::string& service, bool serving) {
  MutexLock lock(mutex_);
  if (shutdown_) return;
  serving_[service] = serving;
  for (Watcher* watcher : watchers_) watcher->Update();
}

void HealthService::SetAllServing(bool serving) {
  MutexLock lock(mutex_);
  if (shutdown_) return;
  for (auto& [service, state] : serving_) state = serving;
  for (Watcher* watcher : watchers_) watcher->Update();
}

void HealthService::Shutdown() {
  MutexLock lock(mutex_);
  for (auto& [service, state] : serving_) state = false;
  shutdown_ = true;
  for (Watcher* watcher : watchers_) watcher->Update();
}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  MutexLock lock(mutex_);
  const Status status = StatusOfService(request->service());
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) {
    reactor->Finish(ToGrpcStatus(ErrorWithDetails(
        absl::StatusCode::kNotFound, "no service is named \"" + request->service() + "\"",
        {.reason = "SERVICE_NOT_FOUND",
         .resource = MissingResource{"service", request->service()}})));
    return reactor;
  }
  response->set_status(status);
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext* /*context*/, const HealthCheckRequest* request) {
  auto* watcher = new Watcher(*this, request->service());
  MutexLock lock(mutex_);
  watchers_.insert(watcher);
  watcher->Update();
  return watcher;
}

}  // namespace modeld
