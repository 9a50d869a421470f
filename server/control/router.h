// Which engine answers for a model.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/base/mutex.h"
#include "server/control/changes.h"
#include "server/control/tables.h"
#include "server/engines/engines.h"

namespace modeld {

// Thread-safe. Keeps the names of all models, so that no request waits for the database and
// requests go on while that is away.
class Router {
 public:
  struct Parts {
    Tables& tables;
    Engines& engines;
    Changes& changes;
  };

  explicit Router(const Parts& parts);
  ~Router();
  Router(const Router&) = delete;
  Router& operator=(const Router&) = delete;

  // A pinned READY instance; never blocks, fit for a reactor. MODEL_NOT_READY, QUEUE_FULL;
  // MODEL_NOT_FOUND also for a name that was registered a moment ago: then Route() knows for
  // certain.
  absl::StatusOr<EngineHandle> RouteNow(std::string_view model_name);
  // The same, but asks the database about a name that it does not know, so that it may block.
  // DATABASE_UNAVAILABLE when nothing is known of the name and the database is away.
  absl::StatusOr<EngineHandle> Route(std::string_view model_name);

 private:
  void OnChange(const std::string& what);
  void KeepNames(std::stop_token stop);
  absl::Status ReadAllNames();
  absl::Status ReadName(const std::string& model_name);

  const Parts parts_;
  Mutex mutex_;
  CondVar changed_;
  std::set<std::string, std::less<>> names_ ABSL_GUARDED_BY(mutex_);
  std::set<std::string> stale_ ABSL_GUARDED_BY(mutex_);  // names to look up again
  bool all_stale_ ABSL_GUARDED_BY(mutex_) = true;
  bool complete_ ABSL_GUARDED_BY(mutex_) = false;  // names_ held every name once
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<Changes::Subscription> subscription_;
  std::jthread thread_;  // last, so that it ends before what it uses
};

}  // namespace modeld
