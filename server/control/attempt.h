// One operation at work: from the claim of its row to what it came to.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/clock.h"
#include "server/base/mutex.h"
#include "server/control/instance_rows.h"
#include "server/control/live_progress.h"
#include "server/control/registry.h"
#include "server/control/space_promise.h"
#include "server/control/tables.h"
#include "server/core/inspection.h"
#include "server/core/model.h"
#include "server/core/operation.h"
#include "server/download/download_pool.h"
#include "server/download/rate_limit.h"
#include "server/engines/engines.h"
#include "server/hub/hub_client.h"

namespace modeld {

// Writes what `write` writes, again and again while the database is away; CANCELLED on `stop`.
absl::Status Persist(Clock& clock, std::stop_token stop,
                     const std::function<absl::Status()>& write);

// Thread-safe; Run() is called once, on a thread that may block for as long as the work takes.
class Attempt {
 public:
  struct Options {
    std::chrono::seconds lease{30};
    std::chrono::milliseconds drain{30'000};
    std::chrono::seconds load_timeout_base{300};
    std::chrono::seconds load_timeout_per_gib{20};
  };
  struct Parts {
    Tables& tables;
    Registry& registry;
    HubClient& hub;
    DownloadPool& pool;
    Engines& engines;
    InstanceRows& instance_rows;
    LiveProgress& live;
    Clock& clock;
  };
  // Why it was told to stop.
  enum class Intent { kNone, kCancel, kPause, kYield, kLeaseLost, kShutdown };

  // `claimed` is RUNNING with our lease.
  Attempt(const Options& options, const Parts& parts, const Operation& claimed);

  // Does the work. Temporary errors say UNAVAILABLE; ABORTED means that the lease is lost.
  absl::Status Run();

  // Makes Run() return soon; the first intent stays.
  void Stop(Intent intent);
  Intent intent() const;
  std::stop_token stop_token() const { return stop_.get_token(); }

  const Operation& operation() const { return operation_; }
  OperationProgress progress() const;
  // For every write to the row; a newer epoch is ours too when this process claimed it.
  OperationLease lease() const;
  void AdoptEpoch(int64_t epoch);
  int32_t priority() const;
  // What callers ask for by now. A download whose priority was raised stops with Intent::kYield, so
  // that it is begun anew with it.
  void Obey(const OperationsTable::Wishes& wishes);
  // Whether it had all the space that it needs at some time, so that the lack of it is news.
  bool had_space() const;
  // Lowers what is reserved for it to what it still has to write.
  absl::Status FollowSpace();

 private:
  // Files of one commit, here and complete.
  struct Snapshot {
    std::string commit;
    std::string path;
    std::optional<Inspection> inspection;
  };
  // What the hub lists, before it is fetched.
  struct Source {
    std::string revision;  // whose ref moves
    RepoListing listing;
    FileFilter filter;
    std::vector<RepoFile> wanted;
    std::optional<Inspection> inspection;
  };

  absl::Status RunDownload();
  absl::Status RunLoad();
  absl::Status RunUnload();

  absl::Status ReadModel();
  bool is_load() const { return operation_.kind == OperationKind::kLoad; }
  // The row's commit when all of its files are here, without asking the hub.
  absl::StatusOr<std::optional<Snapshot>> FindLocal();
  absl::StatusOr<Source> AskHub();
  absl::StatusOr<std::optional<Inspection>> Inspect(const Source& source);
  absl::Status Reserve(const Source& source);
  absl::Status Unfetched(const absl::Status& error);
  absl::StatusOr<Snapshot> Fetch(const Source& source);
  absl::Status Record(const Source& source, const std::string& snapshot_path, int64_t size_bytes);
  absl::StatusOr<Inspection> InspectLocal(const std::string& folder,
                                          const std::vector<RepoFile>& files);

  bool LoadedAlready(const Snapshot& snapshot);
  absl::StatusOr<Placement> MakeRoom(const Inspection& inspection);
  absl::Status StartEngine(const Snapshot& snapshot);
  absl::Status WriteWanted(const Snapshot& snapshot);

  absl::Status Write(const std::function<absl::Status()>& write);
  void SetPhase(OperationPhase phase);
  void OnDownloadProgress(const OperationProgress& progress);
  void OnLoadProgress(int64_t bytes_done, int64_t bytes_total);
  void Show(const OperationProgress& progress);

  const Options options_;
  const Parts parts_;
  const Operation operation_;
  Model model_;             // as read when the attempt began; Run()'s thread only
  std::string cache_path_;  // of the row; Run()'s thread only
  std::stop_source stop_;
  const std::shared_ptr<RateLimit> limit_;

  mutable Mutex mutex_;
  Intent intent_ ABSL_GUARDED_BY(mutex_) = Intent::kNone;
  int64_t epoch_ ABSL_GUARDED_BY(mutex_);
  OperationProgress progress_ ABSL_GUARDED_BY(mutex_);
  int32_t priority_ ABSL_GUARDED_BY(mutex_);
  bool had_space_ ABSL_GUARDED_BY(mutex_);
  // While it fetches.
  std::shared_ptr<SpacePromise> promise_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace modeld
