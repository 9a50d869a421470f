// The table of operations: attempts, their leases and their progress.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/operation.h"
#include "server/store/database.h"

namespace modeld {

// The owner's right to write to one operation: whoever holds a newer epoch has taken it over.
struct OperationLease {
  std::string name;
  std::string owner;  // node_id
  int64_t epoch = 0;
};

// Thread-safe. Every method: DATABASE_UNAVAILABLE. Every change sends NOTIFY (listener.h). Methods
// that take a lease write with `WHERE name = .. AND owner = .. AND epoch = ..`; ABORTED means the
// lease is lost: stop.
class OperationsTable {
 public:
  explicit OperationsTable(Database& database) : database_(database) {}

  // Decides, with the model's row locked, what becomes of a request. `active` are the model's
  // operations on the same node that are not final, oldest first.
  struct Decision {
    std::optional<std::string> join;  // answer with this active operation
    bool insert = false;              // else make the new one
  };
  using Decide = std::function<absl::StatusOr<Decision>(const std::vector<Operation>& active)>;
  // The operation that serves the request; `operation` (state as given, usually PENDING) is
  // inserted when `decide` says so. MODEL_NOT_FOUND when the row is gone; an error from `decide` is
  // handed on.
  absl::StatusOr<Operation> Start(const Operation& operation, const Decide& decide);

  absl::StatusOr<Operation> Get(std::string_view name);  // OPERATION_NOT_FOUND
  // Newest first; `before` is the last name of the page before, or empty. Of one model when
  // `model_name` is given.
  absl::StatusOr<std::vector<Operation>> List(std::optional<std::string> model_name,
                                              std::string_view before, int64_t limit);

  // How many may be taken. Loads and unloads have their own room, so that they never wait for
  // downloads.
  struct ClaimRoom {
    int64_t downloads = 0;
    int64_t others = 0;
    int64_t downloads_above = std::numeric_limits<int64_t>::min();  // only of a higher priority
  };
  // Takes operations of `node_id` that may run now (PENDING and due, or RUNNING with a lapsed
  // lease), by priority and age: RUNNING, epoch + 1, leased for `lease` by the database's clock.
  // FOR UPDATE SKIP LOCKED.
  absl::StatusOr<std::vector<Operation>> Claim(std::string_view node_id, std::chrono::seconds lease,
                                               const ClaimRoom& room);
  // At start: what this node left RUNNING becomes PENDING at once, or what was asked for meanwhile.
  absl::Status Reclaim(std::string_view node_id);
  absl::Status Renew(const OperationLease& lease, std::chrono::seconds by);
  // Also renews the lease by 30 s. Says what callers ask of it by now.
  struct Wishes {
    bool cancel = false;
    bool pause = false;
    int32_t priority = 0;
    int64_t bytes_per_second_max = 0;  // 0: no limit
  };
  absl::StatusOr<Wishes> WriteProgress(const OperationLease& lease,
                                       const OperationProgress& progress);
  // Ends it; `error` is OK for SUCCEEDED. Also writes the last progress and gives its reservation
  // back.
  absl::Status Finish(const OperationLease& lease, OperationState state, const absl::Status& error,
                      const OperationProgress& progress);
  // The owner lets it go, with the last progress; what was asked for meanwhile is obeyed instead:
  // CANCELLED, or PAUSED.
  // Back to PENDING, due after `delay` by the database's clock.
  absl::Status GiveBack(const OperationLease& lease, std::chrono::milliseconds delay,
                        const absl::Status& last_error, const OperationProgress& progress);
  // PAUSED until Resume(). It keeps its reservation.
  absl::Status Pause(const OperationLease& lease, const OperationProgress& progress);
  // PAUSED until EndWaitForSpace() or Resume(), with `error` for all to see. It gives its
  // reservation back.
  absl::Status WaitForSpace(const OperationLease& lease, const absl::Status& error,
                            const OperationProgress& progress);

  // What callers ask for. PENDING and PAUSED ones are settled at once, RUNNING ones by their owner.
  // OPERATION_NOT_FOUND, OPERATION_NOT_ACTIVE.
  absl::StatusOr<Operation> RequestCancel(std::string_view name);
  absl::StatusOr<Operation> RequestPause(std::string_view name);
  absl::StatusOr<Operation> Resume(std::string_view name);  // PAUSED -> PENDING
  absl::StatusOr<Operation> SetBytesPerSecondMax(std::string_view name,
                                                 int64_t bytes_per_second_max);
  // Gives the downloads of a model that are not final at least this priority, for somebody who
  // waits for them. The names of those that had less.
  absl::StatusOr<std::vector<std::string>> RaiseDownloads(int64_t model_id,
                                                          std::string_view node_id,
                                                          int32_t priority);

  // Those of a node that are PAUSED, by priority and age.
  absl::StatusOr<std::vector<Operation>> ListPaused(std::string_view node_id);
  // PENDING again, if it still waits for space.
  absl::Status EndWaitForSpace(std::string_view name);

 private:
  Database& database_;
};

}  // namespace modeld
