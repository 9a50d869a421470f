// The files of a pool, and what a free connection does next.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>
#include <tuple>
#include <vector>

#include "server/download/download_pool.h"
#include "server/download/file_download.h"
#include "server/download/segment.h"

namespace modeld {

// A file of the pool, from Submit() to its Done.
struct QueuedFile {
  using Time = std::chrono::steady_clock::time_point;

  FileDownload file;
  DownloadPool::Done done;
  int64_t age = 0;        // order of Submit()
  std::stop_source stop;  // the file's own stop, the pool's end, or a failure
  std::unique_ptr<std::stop_callback<std::function<void()>>> on_stop;

  // The pool's mutex guards the rest. Its end waits for a stop callback that runs, and that one
  // takes the mutex: so a job is never destroyed with the mutex held.
  std::unique_ptr<FileTransfer> transfer;  // once it was begun
  bool open = false;                       // transfer->Open() is behind it
  bool alone = false;                      // one thread is at it, which wants no other
  bool locating = false;
  Time not_before{};                               // no Open() before
  absl::Status failed;                             // final, when not OK
  std::vector<std::shared_ptr<Segment>> segments;  // being fetched

  bool small() const { return file.small(); }
};

// What one connection does next with one file.
struct DownloadStep {
  enum class Kind { kOpen, kLocate, kFetch, kFinish, kClose };

  Kind kind = Kind::kOpen;
  std::shared_ptr<QueuedFile> job;
  std::shared_ptr<Segment> segment;  // of kFetch
};

// Steps are given out by priority, then to the model with the fewest connections, then to the file
// with the fewest, then by age. The pool's mutex guards all of it.
class DownloadQueue {
 public:
  using Time = QueuedFile::Time;

  struct Limits {
    int connections = 1;
    int per_host = 0;  // 0: no limit
    int large = 1;     // connections at work on files that are not small
  };

  void Add(std::shared_ptr<QueuedFile> job);
  // Takes the next step that `limits` allow, and books it until End(); none: wait for a change.
  std::optional<DownloadStep> Next(const Limits& limits, bool limited_rate, Time now);
  // The step is over. A job that is settled is forgotten.
  void End(const DownloadStep& step, bool settled, Time now);

  // Steps to settle jobs that are stopped and at which nobody is at work.
  std::vector<DownloadStep> TakeStopped(Time now);
  // Looks at the pace of every segment; about ten times a second.
  void Sample(Time now);
  // Ends one request of a lower priority when a file of a higher one gets no connection for them.
  void Preempt(const Limits& limits, Time now);

  bool empty() const { return waiting_.empty() && active_.empty(); }
  std::vector<std::shared_ptr<QueuedFile>> All() const;
  int64_t waiting() const { return waiting_count_; }
  int busy() const { return busy_; }
  int busy_large() const { return busy_large_; }
  int large_files() const;  // that have bytes to fetch
  bool HasStep(const Limits& limits, Time now) { return Best(limits, now).has_value(); }
  const std::vector<std::shared_ptr<QueuedFile>>& active() const { return active_; }

 private:
  using Jobs = std::vector<std::shared_ptr<QueuedFile>>;
  struct Oldest {
    bool operator()(const std::shared_ptr<QueuedFile>& a,
                    const std::shared_ptr<QueuedFile>& b) const {
      return a->age < b->age;
    }
  };
  // Lower priority counts as more; small files apart, since other limits hold for them.
  using Line = std::tuple<int32_t, std::string, bool>;
  struct Choice {
    DownloadStep step;
    ByteRange range = {};                // of kFetch
    std::shared_ptr<Segment> slow = {};  // of a range asked for again
    std::shared_ptr<Segment> from = {};  // whose last part `range` is taken over
  };
  using Rank = std::tuple<int, int32_t, int, int, int64_t>;

  std::optional<Choice> Best(const Limits& limits, Time now);
  std::optional<Choice> StepOf(const std::shared_ptr<QueuedFile>& job, const Limits& limits,
                               Time now);
  std::optional<Choice> Hedge(const Limits& limits, Time now);
  std::optional<Choice> TakeOver(const Limits& limits, Time now);
  Rank RankOf(const Choice& choice) const;
  bool Allowed(const Choice& choice, const Limits& limits) const;
  void Book(Choice& choice, Time now);
  void EndSegment(QueuedFile& job, const Segment& ended, Time now);
  int ConnectionsFor(const QueuedFile& job, const Limits& limits) const;

  std::map<Line, std::set<std::shared_ptr<QueuedFile>, Oldest>> waiting_;
  int64_t waiting_count_ = 0;
  Jobs active_;
  int busy_ = 0;
  int busy_large_ = 0;
  std::map<std::string, int> by_model_;
  std::map<std::string, int> by_host_;
  std::map<std::string, double> usual_;  // bytes per second of one connection, by origin
};

}  // namespace modeld
