#include "server/engine/engine_service.h"

#include <grpcpp/alarm.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "server/core/reason.h"
#include "server/engine/load_model.h"
#include "server/wire/convert.h"
#include "server/wire/status_wire.h"

namespace modeld {
namespace {

using modeld::engine::v1::LoadRequest;
using modeld::engine::v1::LoadResponse;
using modeld::engine::v1::StatsResponse;

constexpr auto kStatsInterval = std::chrono::seconds(1);

int UsableCores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof(cores), &cores) == 0 ? std::max(CPU_COUNT(&cores), 1) : 1;
}

// Progress of a load. While a write is in flight only the newest message is kept. Deletes itself.
class LoadStream final : public grpc::ServerWriteReactor<LoadResponse> {
 public:
  // From the loading thread.
  void Send(const LoadResponse& message) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    next_ = message;
    WriteNext();
  }
  // The last call of the loading thread.
  void End(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    end_ = status;
    WriteNext();
  }

 private:
  // gRPC runs no reaction inside StartWrite() and Finish(), so that the lock may be held around
  // them.
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (writing_) return;
    if (next_) {
      message_ = *std::exchange(next_, std::nullopt);
      writing_ = true;
      StartWrite(&message_);
    } else if (end_) {
      Finish(ToGrpcStatus(*end_));
    }
  }
  void OnWriteDone(bool /*ok*/) override ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    writing_ = false;
    WriteNext();
  }
  void OnDone() override {
    // End() may still hold the lock when gRPC is done already.
    {
      MutexLock lock(mutex_);
    }
    delete this;
  }

  Mutex mutex_;
  std::optional<LoadResponse> next_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  LoadResponse message_;  // of the write in flight
};

void Fill(const Histogram& in, modeld::engine::v1::Histogram& out) {
  out.mutable_bounds()->Assign(in.bounds.begin(), in.bounds.end());
  out.mutable_counts()->Assign(in.counts.begin(), in.counts.end());
  out.set_sum(in.sum);
}

StatsResponse StatsNow(const ModelSlot& slot) {
  SchedulerStats stats;
  StatsResponse out;
  if (const auto model = slot.Get(); model.ok()) {
    stats = (*model)->Stats();
    for (const DeviceBytes& bytes : DeviceBytesNow((*model)->loaded)) {
      *out.add_devices() = ToProto(bytes);
    }
  }
  out.set_active_requests(stats.active);
  out.set_waiting_requests(stats.waiting);
  out.set_kv_cache_used_ratio(stats.kv_used_ratio);
  out.set_prompt_tokens_total(stats.prompt_tokens);
  out.set_cached_tokens_total(stats.cached_tokens);
  out.set_generated_tokens_total(stats.generated_tokens);
  for (const auto& [kind, count] : stats.finished) {
    auto* finished = out.add_finished();
    finished->set_method(kind.first);
    finished->set_finish_reason(kind.second);
    finished->set_count(count);
  }
  Fill(stats.queue, *out.mutable_queue());
  Fill(stats.time_to_first_token, *out.mutable_time_to_first_token());
  Fill(stats.inter_token, *out.mutable_inter_token());
  out.set_steps_total(stats.steps);
  return out;
}

// A write, a second of waiting, a write, ... until the call is cancelled. Deletes itself.
class StatsStream final : public grpc::ServerWriteReactor<StatsResponse> {
 public:
  explicit StatsStream(const ModelSlot& slot) : slot_(slot) { Write(); }

 private:
  void Write() {
    message_ = StatsNow(slot_);
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override ABSL_LOCKS_EXCLUDED(mutex_) {
    {
      MutexLock lock(mutex_);
      if (ok && !cancelled_) {
        waits_ = true;
        alarm_.Set(std::chrono::system_clock::now() + kStatsInterval, [this](bool) { OnAlarm(); });
        return;
      }
    }
    Finish(grpc::Status::CANCELLED);
  }
  void OnAlarm() ABSL_LOCKS_EXCLUDED(mutex_) {
    bool cancelled = false;
    {
      MutexLock lock(mutex_);
      waits_ = false;
      cancelled = cancelled_;
    }
    if (cancelled) {
      Finish(grpc::Status::CANCELLED);
    } else {
      Write();
    }
  }
  void OnCancel() override ABSL_LOCKS_EXCLUDED(mutex_) {
    MutexLock lock(mutex_);
    cancelled_ = true;
    if (waits_) alarm_.Cancel();  // the alarm's callback runs on a thread of gRPC, not here
  }
  void OnDone() override { delete this; }

  const ModelSlot& slot_;
  Mutex mutex_;
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mutex_);
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  StatsResponse message_;  // of the write in flight
};

modeld::engine::v1::LoadResponse ReadyMessage(const ServingModel& model, int sequences_max) {
  LoadResponse out;
  out.set_phase(LoadResponse::PHASE_READY);
  for (const DeviceBytes& bytes : model.loaded.devices) {
    *out.mutable_ready()->add_devices() = ToProto(bytes);
    out.set_bytes_total(out.bytes_total() + bytes.weights_bytes);
  }
  out.set_bytes_done(out.bytes_total());
  out.mutable_ready()->set_max_context(model.loaded.max_context);
  out.mutable_ready()->set_sequences_max(sequences_max);
  return out;
}

}  // namespace

EngineService::EngineService(const Options& options, ModelSlot& slot, Clock& clock)
    : options_(options), slot_(slot), clock_(clock) {}

grpc::ServerWriteReactor<LoadResponse>* EngineService::Load(
    grpc::CallbackServerContext* /*context*/, const LoadRequest* request) {
  auto* stream = new LoadStream;  // deletes itself
  MutexLock lock(mutex_);
  if (loading_) {
    stream->End(Error(Reason::kModelInUse, "this engine has loaded a model, or is loading one"));
    return stream;
  }
  loading_ = true;
  ServingOptions options{.scheduler = options_.scheduler, .threads = UsableCores()};
  if (request->threads() > 0) options.threads = request->threads();
  if (options_.threads_max > 0) options.threads = std::min(options.threads, options_.threads_max);
  // The request is gone when the call is, and a load outlives a call that is cancelled. An earlier
  // thread has failed and is about to end.
  load_thread_ = std::jthread([this, stream, options, request = *request] {
    absl::StatusOr<std::shared_ptr<ServingModel>> model = LoadServingModel(
        request, options, clock_, [stream](const LoadResponse& m) { stream->Send(m); });
    if (model.ok()) {
      slot_.Set(*model);
      stream->Send(ReadyMessage(**model, options_.scheduler.sequences_max));
    } else {
      MutexLock lock(mutex_);
      loading_ = false;
    }
    stream->End(model.status());
  });
  return stream;
}

grpc::ServerWriteReactor<StatsResponse>* EngineService::Stats(
    grpc::CallbackServerContext* /*context*/, const modeld::engine::v1::StatsRequest* /*request*/) {
  return new StatsStream(slot_);  // deletes itself
}

grpc::ServerUnaryReactor* EngineService::Drain(grpc::CallbackServerContext* context,
                                               const modeld::engine::v1::DrainRequest* request,
                                               modeld::engine::v1::DrainResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<std::shared_ptr<ServingModel>> model = slot_.Get();
  absl::Status refused = model.status();
  if (request->timeout_ms() < 0) refused = InvalidField("timeout_ms", "is below 0");
  MutexLock lock(mutex_);
  if (refused.ok() && draining_) {
    refused = Error(Reason::kOperationInProgress, "this engine is being drained already");
  }
  if (!refused.ok()) {
    reactor->Finish(ToGrpcStatus(refused));
    return reactor;
  }
  draining_ = true;
  drain_thread_ = std::jthread([reactor, request, response, model = *std::move(model)] {
    response->set_cut_off(model->Drain(std::chrono::milliseconds(request->timeout_ms())));
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

}  // namespace modeld
