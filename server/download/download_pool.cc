#include "server/download/download_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <ctime>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "server/base/log.h"
#include "server/base/mutex.h"
#include "server/base/status.h"
#include "server/core/reason.h"
#include "server/curl/http_client.h"
#include "server/download/connection_target.h"
#include "server/download/download_queue.h"
#include "server/download/file_download.h"
#include "server/download/rate_limit.h"
#include "server/download/retry.h"

namespace modeld {
namespace {

// What a connection gathers before it writes: it stays in the second level cache from libcurl's
// copy over write to digest.
constexpr size_t kBufferBytes = 256 << 10;
constexpr size_t kBufferAlignment = 4096;
// How often retries, paces and the number of connections are looked at while files are fetched.
constexpr std::chrono::milliseconds kTick{20};
constexpr std::chrono::milliseconds kSyncTick{500};
// What large files begin with, before it is known whether more connections help.
constexpr int kFirstConnections = 4;

double ProcessSeconds() {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

absl::Status Stopped() { return absl::CancelledError("the download was stopped"); }

// One connection's buffer, made when it is needed first.
class Buffer {
 public:
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::span<char> Get() {
    if (data_ == nullptr) {
      data_ = static_cast<char*>(std::aligned_alloc(kBufferAlignment, kBufferBytes));
    }
    MODELD_CHECK(data_ != nullptr, "no memory for 256 KiB");
    return {data_, kBufferBytes};
  }

 private:
  char* data_ = nullptr;
};

}  // namespace

struct DownloadPool::Rep {
  Rep(const Options& pool_options, HubClient& pool_hub, Metrics& pool_metrics, Clock& pool_clock)
      : options(pool_options),
        metrics(pool_metrics),
        clock(pool_clock),
        pauses(pool_clock),
        limit(pool_clock),
        tools{.hub = pool_hub,
              .pauses = pauses,
              .limit = limit,
              .metrics = pool_metrics,
              .clock = pool_clock,
              .options = options,
              .large_bytes = large_bytes},
        connections_max(pool_options.workers) {}

  void Work();
  void Tend();
  void SyncBehind(std::stop_token stop);
  std::optional<DownloadStep> Next();
  void Run(const DownloadStep& step, HttpClient* http, Buffer* buffer);
  // What a step came to; with a value the job is settled with it.
  std::optional<absl::StatusOr<FileResult>> Do(const DownloadStep& step, HttpClient* http,
                                               Buffer* buffer);
  std::optional<absl::StatusOr<FileResult>> Open(QueuedFile& job);
  std::optional<absl::StatusOr<FileResult>> Failed(QueuedFile& job, const absl::Status& status);
  void Settle(const QueuedFile& job, const absl::StatusOr<FileResult>& result);
  void Shutdown();
  DownloadQueue::Limits LimitsNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Adapt(std::chrono::steady_clock::time_point now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void ShowQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);

  const Options options;
  Metrics& metrics;
  Clock& clock;
  HostPauses pauses;
  RateLimit limit;
  std::atomic<int64_t> large_bytes{0};
  const DownloadTools tools;

  Mutex mutex;
  CondVar work;  // a step may have come up, or closed
  CondVar tend;  // a file came, one was stopped, or closed
  DownloadQueue queue ABSL_GUARDED_BY(mutex);
  ConnectionTarget target ABSL_GUARDED_BY(mutex);
  int64_t next_age ABSL_GUARDED_BY(mutex) = 0;
  int connections_max ABSL_GUARDED_BY(mutex);
  int per_host_max ABSL_GUARDED_BY(mutex) = 0;
  bool closed ABSL_GUARDED_BY(mutex) = false;

  std::vector<std::jthread> threads;  // last, so that they end before what they use
};

DownloadQueue::Limits DownloadPool::Rep::LimitsNow() {
  return {.connections = connections_max, .per_host = per_host_max, .large = target.level()};
}

void DownloadPool::Rep::ShowQueue() {
  metrics.download_queue_length.Set(static_cast<double>(queue.waiting()));
  metrics.download_active.Set(static_cast<double>(queue.active().size()));
}

std::optional<DownloadStep> DownloadPool::Rep::Next() {
  MutexLock lock(mutex);
  while (!closed) {
    const bool limited = limit.bytes_per_second() > 0;
    std::optional<DownloadStep> step = queue.Next(LimitsNow(), limited, clock.Steady());
    if (step) {
      ShowQueue();
      work.NotifyOne();  // there may be another one
      return step;
    }
    work.Wait(mutex);
  }
  return std::nullopt;
}

void DownloadPool::Rep::Work() {
  HttpClient http(tools.hub.options().http);
  Buffer buffer;
  while (const std::optional<DownloadStep> step = Next()) Run(*step, &http, &buffer);
}

void DownloadPool::Rep::Run(const DownloadStep& step, HttpClient* http, Buffer* buffer) {
  const std::optional<absl::StatusOr<FileResult>> result = Do(step, http, buffer);
  {
    MutexLock lock(mutex);
    const auto now = clock.Steady();
    queue.End(step, result.has_value(), now);
    if (step.segment && step.segment->refused && queue.busy_large() > 0) target.OnRefused(now);
    ShowQueue();
    tend.NotifyOne();
  }
  if (result) Settle(*step.job, *result);
}

std::optional<absl::StatusOr<FileResult>> DownloadPool::Rep::Do(const DownloadStep& step,
                                                                HttpClient* http, Buffer* buffer) {
  QueuedFile& job = *step.job;
  switch (step.kind) {
    case DownloadStep::Kind::kOpen:
      return Open(job);
    case DownloadStep::Kind::kLocate:
      return Failed(job, job.transfer->Locate());
    case DownloadStep::Kind::kFetch:
      return Failed(job, job.transfer->Fetch(*http, buffer->Get(), *step.segment));
    case DownloadStep::Kind::kFinish: {
      const absl::StatusOr<bool> published = job.transfer->Finish();
      if (!published.ok() || !*published) return Failed(job, published.status());
      return FileResult{.received_bytes = job.transfer->received_bytes()};
    }
    case DownloadStep::Kind::kClose: {
      if (job.transfer) job.transfer->Close();
      MutexLock lock(mutex);
      return job.failed.ok() ? Stopped() : job.failed;
    }
  }
  return std::nullopt;
}

std::optional<absl::StatusOr<FileResult>> DownloadPool::Rep::Open(QueuedFile& job) {
  if (!job.transfer) {
    auto transfer = std::make_unique<FileTransfer>(job.file, tools, job.stop.get_token());
    MutexLock lock(mutex);
    job.transfer = std::move(transfer);
  }
  const absl::StatusOr<FileTransfer::Opened> opened = job.transfer->Open();
  if (!opened.ok()) return Failed(job, opened.status());
  if (*opened == FileTransfer::Opened::kPresent) {
    job.transfer->Close();
    return FileResult{.present = true};
  }
  MutexLock lock(mutex);
  job.open = *opened == FileTransfer::Opened::kReady;
  job.not_before = clock.Steady() + FileTransfer::kLockPoll;
  return std::nullopt;
}

// Ends the file, unless `status` is OK or all can be begun anew. It is settled by a step of its
// own, once no connection is at work on it.
std::optional<absl::StatusOr<FileResult>> DownloadPool::Rep::Failed(QueuedFile& job,
                                                                    const absl::Status& status) {
  if (status.ok()) return std::nullopt;
  const bool anew = job.transfer->Reopens(status);
  {
    MutexLock lock(mutex);
    if (anew) {
      job.open = false;
      job.not_before = clock.Steady();
    } else if (job.failed.ok() && !job.stop.stop_requested()) {
      job.failed = status;
    }
    for (const auto& segment : job.segments) segment->stop.request_stop();
  }
  if (!anew) job.stop.request_stop();
  return std::nullopt;
}

void DownloadPool::Rep::Settle(const QueuedFile& job, const absl::StatusOr<FileResult>& result) {
  if (!absl::IsCancelled(result.status())) {
    const char* outcome = !result.ok() ? "failed" : result->present ? "present" : "fetched";
    metrics.download_files.Add({{"model", job.file.model_name}, {"result", outcome}}).Increment();
  }
  job.done(result);
}

void DownloadPool::Rep::Adapt(std::chrono::steady_clock::time_point now) {
  DownloadQueue::Limits more = LimitsNow();
  more.large = options.workers;
  target.Tick(now,
              {.bytes = large_bytes.load(std::memory_order_relaxed),
               .cpu_seconds = ProcessSeconds(),
               .processors = std::max(1, static_cast<int>(std::thread::hardware_concurrency())),
               .busy = queue.busy_large(),
               .base = kFirstConnections,
               .max = std::max(1, connections_max),
               .hungry = queue.HasStep(more, now),
               .limited = limit.bytes_per_second() > 0});
}

// Settles files that are stopped while the workers are busy with others, and looks at the time.
void DownloadPool::Rep::Tend() {
  while (true) {
    std::vector<DownloadStep> stopped;
    {
      MutexLock lock(mutex);
      if (closed && queue.empty()) return;
      if (queue.empty()) {
        tend.Wait(mutex);
      } else {
        tend.WaitFor(mutex, kTick);
      }
      const auto now = clock.Steady();
      stopped = queue.TakeStopped(now);
      queue.Sample(now);
      Adapt(now);
      queue.Preempt(LimitsNow(), now);
      work.NotifyOne();
    }
    for (const DownloadStep& step : stopped) Run(step, nullptr, nullptr);
  }
}

// Keeps what the journals promise after a loss of power close to what was written, beside the
// connections: a sync may take long.
void DownloadPool::Rep::SyncBehind(std::stop_token stop) {
  while (Clock::Real().Sleep(kSyncTick, stop)) {
    std::vector<std::shared_ptr<QueuedFile>> jobs;
    {
      MutexLock lock(mutex);
      for (const auto& job : queue.active()) {
        if (job->open) jobs.push_back(job);
      }
    }
    for (const auto& job : jobs) {
      if (absl::Status synced = job->transfer->SyncIfDue(); !synced.ok()) {
        LogWarning("part_not_synced", {{"path", job->file.file.path}, {"error", synced}});
        Failed(*job, synced);
      }
    }
  }
}

void DownloadPool::Rep::Shutdown() {
  std::vector<std::shared_ptr<QueuedFile>> jobs;
  {
    MutexLock lock(mutex);
    closed = true;
    jobs = queue.All();
    work.NotifyAll();
    tend.NotifyAll();
  }
  for (const auto& job : jobs) job->stop.request_stop();
  for (std::jthread& thread : threads) thread.request_stop();
  jobs.clear();
  threads.clear();
}

DownloadPool::DownloadPool(const Options& options, HubClient& hub, Metrics& metrics, Clock& clock)
    : rep_(std::make_unique<Rep>(options, hub, metrics, clock)) {
  Rep* rep = rep_.get();
  for (int i = 0; i < options.workers; ++i) rep->threads.emplace_back([rep] { rep->Work(); });
  rep->threads.emplace_back([rep] { rep->Tend(); });
  rep->threads.emplace_back([rep](std::stop_token stop) { rep->SyncBehind(std::move(stop)); });
}

DownloadPool::~DownloadPool() { rep_->Shutdown(); }

absl::Status DownloadPool::Submit(FileDownload file, Done done) {
  auto job = std::make_shared<QueuedFile>();
  job->file = std::move(file);
  job->done = std::move(done);
  Rep* rep = rep_.get();
  // Made before the job is in the queue, so that nobody else touches it then.
  job->on_stop = std::make_unique<std::stop_callback<std::function<void()>>>(
      job->file.stop, [rep, raw = job.get()] {
        raw->stop.request_stop();
        MutexLock lock(rep->mutex);
        rep->tend.NotifyOne();
      });
  // `job` outlives the lock when it is refused.
  MutexLock lock(rep->mutex);
  if (rep->queue.waiting() >= rep->options.files_max) {
    return Error(Reason::kQueueFull,
                 std::to_string(rep->queue.waiting()) + " files wait for a download already");
  }
  job->age = rep->next_age++;
  rep->queue.Add(job);
  rep->ShowQueue();
  rep->work.NotifyOne();
  rep->tend.NotifyOne();
  return absl::OkStatus();
}

void DownloadPool::SetLimits(const Limits& limits) {
  rep_->limit.Set(limits.bytes_per_second);
  MutexLock lock(rep_->mutex);
  const int workers = rep_->options.workers;
  rep_->connections_max = limits.connections > 0 ? std::min(limits.connections, workers) : workers;
  rep_->per_host_max = limits.connections_per_host;
  rep_->work.NotifyAll();
}

Metrics& DownloadPool::metrics() { return rep_->metrics; }
Clock& DownloadPool::clock() { return rep_->clock; }

}  // namespace modeld
