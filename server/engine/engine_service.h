// modeld.engine.v1.Engine: loading, figures, draining.
#pragma once

#include <grpcpp/grpcpp.h>

#include <thread>

#include "modeld/engine/v1/engine.grpc.pb.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/engine/batch/scheduler.h"
#include "server/engine/serving_model.h"

namespace modeld {

// One load for each process (another try after a failed one). Thread-safe. Destroyed after the
// server's calls ended.
class EngineService final : public modeld::engine::v1::Engine::CallbackService {
 public:
  struct Options {
    Scheduler::Options scheduler;
    int threads_max = 0;  // of the CPU, whatever a load asks for; 0: one for each core
  };

  // `slot` and `clock` outlive the service.
  EngineService(const Options& options, ModelSlot& slot, Clock& clock);

  grpc::ServerWriteReactor<modeld::engine::v1::LoadResponse>* Load(
      grpc::CallbackServerContext* context,
      const modeld::engine::v1::LoadRequest* request) override;
  grpc::ServerWriteReactor<modeld::engine::v1::StatsResponse>* Stats(
      grpc::CallbackServerContext* context,
      const modeld::engine::v1::StatsRequest* request) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const modeld::engine::v1::DrainRequest* request,
                                  modeld::engine::v1::DrainResponse* response) override;

 private:
  const Options options_;
  ModelSlot& slot_;
  Clock& clock_;
  Mutex mutex_;
  bool loading_ ABSL_GUARDED_BY(mutex_) = false;  // or loaded
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  std::jthread load_thread_ ABSL_GUARDED_BY(mutex_);
  std::jthread drain_thread_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
