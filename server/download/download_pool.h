// Workers that fetch files in parallel.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/core/operation.h"
#include "server/core/repo.h"
#include "server/download/rate_limit.h"
#include "server/hub/hub_client.h"
#include "server/metrics/metrics.h"

namespace modeld {

// One file to bring to blobs/<file.blob>.
struct FileDownload {
  std::string model_name;  // for metrics
  std::string cache_name;  // for metrics
  std::string cache_path;
  std::string repo_id;
  std::string token_credential;  // as in HubRepo
  std::string commit;
  RepoFile file;
  int32_t priority = 0;
  std::shared_ptr<RateLimit> limit;  // beside the pool's; null: none
  std::stop_token stop;
  // Bytes of the file that are on disk; fewer than before only when wrong bytes were thrown away.
  // From a worker, one call at a time.
  std::function<void(int64_t bytes_done, FileState state)> on_progress;

  // One request brings it, so that waiting for answers costs more than bytes do.
  bool small() const { return file.size_bytes <= (4 << 20); }
};

// How a file got there.
struct FileResult {
  bool present = false;        // its blob was there already, or another process brought it
  int64_t received_bytes = 0;  // of bodies, over all attempts of this call
};

// Runs many FileDownloads over at most Options::workers connections, by priority, then shared
// fairly between models, then by age. Bytes that reached the disk outlive a failed or cancelled
// download; the next one goes on there. A worker is a thread with an HTTP client of its own. One
// libcurl multi handle for all of them would put every copy, digest and write on one thread, which
// is then the limit: 520 MB/s with one core busy against up to 1,150 MB/s with threads (measured,
// 4 x 1 GB with SHA-256 over loopback). Large files are fetched in segments by as many connections
// as help (ConnectionTarget); a small one is one request. Waiting for a lock, a retry or a busy
// host occupies no connection. Thread-safe. The destructor cancels what is left and waits.
class DownloadPool {
 public:
  struct Options {
    int workers = 24;                                  // threads, hence connections
    int64_t files_max = 200'000;                       // waiting; Submit() refuses more
    std::chrono::milliseconds stall_timeout{20'000};   // no byte for so long: new connection
    std::chrono::milliseconds give_up_after{600'000};  // without any progress on a file
    std::chrono::milliseconds lock_wait_max{
        600'000};  // for another process's flock without progress
  };
  // What may change while it runs; 0: no limit beyond Options'.
  struct Limits {
    int64_t bytes_per_second = 0;  // of all downloads together
    int connections = 0;           // at work at once
    int connections_per_host = 0;  // of those, to one origin
  };
  // Called exactly once for each accepted file, on a worker, with no lock held; OK when the blob is
  // published.
  using Done = std::function<void(const absl::StatusOr<FileResult>&)>;

  DownloadPool(const Options& options, HubClient& hub, Metrics& metrics, Clock& clock);
  ~DownloadPool();
  DownloadPool(const DownloadPool&) = delete;
  DownloadPool& operator=(const DownloadPool&) = delete;

  // RESOURCE_EXHAUSTED when files_max are waiting; `done` is then never called.
  absl::Status Submit(FileDownload file, Done done);

  // In force for all downloads, also for those that run: bytes within 100 ms, connections as they
  // become free.
  void SetLimits(const Limits& limits);

  // What the pool was made with.
  Metrics& metrics();
  Clock& clock();

 private:
  struct Rep;
  const std::unique_ptr<Rep> rep_;
};

}  // namespace modeld
