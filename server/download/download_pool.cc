#include "server/download/download_pool.h"

#include <algorithm>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/curl/http_client.h"
#include "server/download/file_download.h"
#include "server/download/host_slots.h"
#include "server/download/rate_limit.h"
#include "server/download/retry.h"

namespace modeld {
namespace {

// A waiting file. Its stop callback locks the pool's mutex, and its end waits for a callback that
// runs: so a job is never destroyed with that mutex held.
struct Job {
  FileDownload file;
  DownloadPool::Done done;
  int64_t age = 0;  // order of Submit
  std::unique_ptr<std::stop_callback<std::function<void()>>> on_stop;
};

struct FirstServed {
  bool operator()(const std::unique_ptr<Job>& a, const std::unique_ptr<Job>& b) const {
    return std::pair(-a->file.priority, a->age) < std::pair(-b->file.priority, b->age);
  }
};

absl::Status Stopped() { return absl::CancelledError("the download was stopped"); }

}  // namespace

struct DownloadPool::Rep {
  Rep(const Options& pool_options, HubClient& pool_hub, Metrics& pool_metrics, Clock& pool_clock)
      : options(pool_options),
        hub(pool_hub),
        metrics(pool_metrics),
        clock(pool_clock),
        pauses(pool_clock),
        limit(pool_clock),
        connections_max(pool_options.workers) {}

  void Work();
  // Answers for files that are stopped while all workers are busy with others.
  void SettleStopped();
  void Run(Job& job, HttpClient& http);
  std::unique_ptr<Job> Next();
  std::vector<std::unique_ptr<Job>> TakeStopped();
  void Shutdown();

  const Options options;
  HubClient& hub;
  Metrics& metrics;
  Clock& clock;
  HostPauses pauses;
  HostSlots slots;
  RateLimit limit;
  std::stop_source stop_all;

  Mutex mutex;
  CondVar work;     // waiting grew, a connection became free, or closed
  CondVar stopped;  // any_stopped, or closed
  std::set<std::unique_ptr<Job>, FirstServed> waiting ABSL_GUARDED_BY(mutex);
  int64_t next_age ABSL_GUARDED_BY(mutex) = 0;
  int connections_max ABSL_GUARDED_BY(mutex);
  int connections ABSL_GUARDED_BY(mutex) = 0;  // at work
  bool any_stopped ABSL_GUARDED_BY(mutex) = false;
  bool closed ABSL_GUARDED_BY(mutex) = false;

  std::vector<std::jthread> threads;  // last, so that they end before what they use
};

std::unique_ptr<Job> DownloadPool::Rep::Next() {
  MutexLock lock(mutex);
  while ((waiting.empty() || connections >= connections_max) && !closed) work.Wait(mutex);
  if (waiting.empty()) return nullptr;
  ++connections;
  std::unique_ptr<Job> job = std::move(waiting.extract(waiting.begin()).value());
  metrics.download_queue_length.Set(static_cast<double>(waiting.size()));
  return job;
}

void DownloadPool::Rep::Work() {
  HttpClient http(hub.options().http);
  while (std::unique_ptr<Job> job = Next()) {
    Run(*job, http);
    MutexLock lock(mutex);
    --connections;
    work.NotifyOne();
  }
}

void DownloadPool::Rep::Run(Job& job, HttpClient& http) {
  std::stop_source stop;
  const auto request_stop = [&] { stop.request_stop(); };
  absl::StatusOr<FileResult> result = Stopped();
  {
    const std::stop_callback of_job(job.file.stop, request_stop);
    const std::stop_callback of_pool(stop_all.get_token(), request_stop);
    if (!stop.stop_requested()) {
      metrics.download_active.Increment();
      result = DownloadFile(job.file, {hub, http, pauses, slots, limit, metrics, clock, options},
                            stop.get_token());
      metrics.download_active.Decrement();
    }
  }
  if (!absl::IsCancelled(result.status())) {
    const char* outcome = !result.ok() ? "failed" : result->present ? "present" : "fetched";
    metrics.download_files.Add({{"model", job.file.model_name}, {"result", outcome}}).Increment();
  }
  job.done(result);
}

std::vector<std::unique_ptr<Job>> DownloadPool::Rep::TakeStopped() {
  std::vector<std::unique_ptr<Job>> out;
  MutexLock lock(mutex);
  while (!any_stopped && !closed) stopped.Wait(mutex);
  any_stopped = false;
  for (auto it = waiting.begin(); it != waiting.end();) {
    const auto at = it++;
    if ((*at)->file.stop.stop_requested()) out.push_back(std::move(waiting.extract(at).value()));
  }
  metrics.download_queue_length.Set(static_cast<double>(waiting.size()));
  return out;
}

void DownloadPool::Rep::SettleStopped() {
  while (!stop_all.stop_requested()) {
    for (const std::unique_ptr<Job>& job : TakeStopped()) job->done(Stopped());
  }
}

void DownloadPool::Rep::Shutdown() {
  stop_all.request_stop();
  {
    MutexLock lock(mutex);
    closed = true;
    work.NotifyAll();
    stopped.NotifyAll();
  }
  threads.clear();
}

DownloadPool::DownloadPool(const Options& options, HubClient& hub, Metrics& metrics, Clock& clock)
    : rep_(std::make_unique<Rep>(options, hub, metrics, clock)) {
  Rep* rep = rep_.get();
  for (int i = 0; i < options.workers; ++i) rep->threads.emplace_back([rep] { rep->Work(); });
  rep->threads.emplace_back([rep] { rep->SettleStopped(); });
}

// Workers take what still waits, find the pool stopped, and say so to each file's owner.
DownloadPool::~DownloadPool() {
  rep_->Shutdown();
  std::set<std::unique_ptr<Job>, FirstServed> left;
  {
    MutexLock lock(rep_->mutex);
    left.swap(rep_->waiting);
  }
  for (const std::unique_ptr<Job>& job : left) job->done(Stopped());
}

absl::Status DownloadPool::Submit(FileDownload file, Done done) {
  auto job = std::make_unique<Job>();
  job->file = std::move(file);
  job->done = std::move(done);
  Rep* rep = rep_.get();
  const std::stop_token stop = job->file.stop;
  // Made before the job is in the queue, so that nobody else touches it then.
  job->on_stop = std::make_unique<std::stop_callback<std::function<void()>>>(stop, [rep] {
    MutexLock lock(rep->mutex);
    rep->any_stopped = true;
    rep->stopped.NotifyOne();
  });
  // `job` outlives the lock when it is refused.
  MutexLock lock(rep->mutex);
  if (static_cast<int64_t>(rep->waiting.size()) >= rep->options.files_max) {
    return Error(Reason::kQueueFull,
                 std::to_string(rep->waiting.size()) + " files wait for a download already");
  }
  job->age = rep->next_age++;
  rep->waiting.insert(std::move(job));
  rep->metrics.download_queue_length.Set(static_cast<double>(rep->waiting.size()));
  rep->work.NotifyOne();
  if (stop.stop_requested()) {
    rep->any_stopped = true;
    rep->stopped.NotifyOne();
  }
  return absl::OkStatus();
}

void DownloadPool::SetLimits(const Limits& limits) {
  rep_->limit.Set(limits.bytes_per_second);
  rep_->slots.SetLimit(limits.connections_per_host);
  MutexLock lock(rep_->mutex);
  const int workers = rep_->options.workers;
  rep_->connections_max = limits.connections > 0 ? std::min(limits.connections, workers) : workers;
  rep_->work.NotifyAll();
}

Metrics& DownloadPool::metrics() { return rep_->metrics; }
Clock& DownloadPool::clock() { return rep_->clock; }

}  // namespace modeld
