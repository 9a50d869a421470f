// What nodes want and have: loads, copies, instances, nodes, reservations.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/core/model.h"
#include "server/store/database.h"

namespace modeld {

// All classes here: thread-safe; every method DATABASE_UNAVAILABLE; changes send NOTIFY
// (listener.h).

// Desired: what should be in memory where.
class LoadsTable {
 public:
  explicit LoadsTable(Database& database) : database_(database) {}
  absl::Status Put(const Load& load);  // insert or replace, wanted as given
  absl::Status SetWanted(int64_t model_id, std::string_view node_id, bool wanted);
  absl::StatusOr<std::vector<Load>> List(std::string_view node_id);  // wanted or not

 private:
  Database& database_;
};

// Observed: snapshots on disk.
class CopiesTable {
 public:
  explicit CopiesTable(Database& database) : database_(database) {}
  absl::Status Put(const Copy& copy);
  absl::StatusOr<std::vector<Copy>> List(int64_t model_id);
  absl::Status Delete(int64_t model_id, std::string_view node_id);
  // The copy of one commit below one path of one node; of any model whose it is.
  absl::Status DeleteCommit(std::string_view node_id, std::string_view cache_path,
                            std::string_view commit);

 private:
  Database& database_;
};

// Observed: engine processes.
class InstancesTable {
 public:
  explicit InstancesTable(Database& database) : database_(database) {}
  absl::Status Put(const Instance& instance);
  absl::Status Delete(std::string_view instance_id);
  absl::Status DeleteNode(std::string_view node_id);  // at start: what it had is gone
  absl::StatusOr<std::vector<Instance>> List();       // all nodes

 private:
  Database& database_;
};

class NodesTable {
 public:
  explicit NodesTable(Database& database) : database_(database) {}
  absl::Status Heartbeat(const Node& node);  // heartbeat_time is the database's clock
  absl::StatusOr<std::vector<Node>> List();

 private:
  Database& database_;
};

// Bytes of a filesystem that an operation will still write. Filesystems are named as
// cache/space.h does, so that all nodes of a machine count each other's.
class ReservationsTable {
 public:
  explicit ReservationsTable(Database& database) : database_(database) {}
  // Makes, changes or (0 bytes) removes the reservation of `operation`. INSUFFICIENT_DISK (both
  // figures; `where` is the path to name) when the sum of all would exceed what is free; ABORTED
  // when the operation has ended.
  struct Request {
    std::string operation;
    std::string node_id;
    std::string filesystem;
    std::string where;
    int64_t bytes = 0;
    // Asked while no other reservation can be made, and after the others were summed up: bytes that
    // are allocated already and not given back yet count twice then, and never not at all.
    std::function<absl::StatusOr<int64_t>()> free_bytes;
  };
  absl::Status Reserve(const Request& request);
  // Lowers the reservation to `bytes`; one that is smaller stays.
  absl::Status Shrink(std::string_view operation, int64_t bytes);
  absl::Status Release(std::string_view operation);
  // Bytes reserved on it by operations other than `except` (may be empty).
  absl::StatusOr<int64_t> Reserved(std::string_view filesystem, std::string_view except);
  // Bytes reserved on it by operations of other models.
  absl::StatusOr<int64_t> ReservedByOtherModels(std::string_view filesystem, int64_t model_id);

 private:
  Database& database_;
};

}  // namespace modeld
