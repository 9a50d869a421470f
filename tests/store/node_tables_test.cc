#include "server/store/node_tables.h"

#include <atomic>
#include <functional>
#include <latch>
#include <thread>
#include <utility>
#include <vector>

#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

using NodeTablesTest = StoreTest;
using ReservationsTableTest = StoreTest;

TEST_F(NodeTablesTest, LoadComesBackAsItWasAndIsReplaced) {
  const Model model = InsertModel("m");
  const TimePoint used{std::chrono::microseconds(1'700'000'000'123'456)};
  Load load{.model_id = model.id, .node_id = "node-a", .commit = "c1", .pinned = true};
  load.spec = {.dtype = "float32",
               .device_map = "",
               .device_map_entries = {{"lm_head", "cpu"}},
               .max_context = 2048};
  load.last_used_time = used;
  ASSERT_THAT(loads_.Put(load), IsOk());
  load.commit = "c2";
  ASSERT_THAT(loads_.Put(load), IsOk());

  const auto found = loads_.List("node-a");

  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().commit, "c2");
  EXPECT_EQ(found->front().spec, load.spec);
  EXPECT_TRUE(found->front().pinned);
  EXPECT_TRUE(found->front().wanted);
  EXPECT_EQ(found->front().last_used_time, used);
  EXPECT_TRUE(loads_.List("node-b")->empty());
}

TEST_F(NodeTablesTest, WantedIsSwitchedOnTheRowThatIsThere) {
  const Model model = InsertModel("m");
  ASSERT_THAT(loads_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());

  ASSERT_THAT(loads_.SetWanted(model.id, "node-a", false), IsOk());

  EXPECT_FALSE(loads_.List("node-a")->front().wanted);
  EXPECT_THAT(loads_.SetWanted(model.id, "node-b", false), IsOk());
  EXPECT_THAT(loads_.SetWanted(model.id, "node-b", true), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(NodeTablesTest, RowsOfAnUnknownModelAreRefused) {
  EXPECT_THAT(loads_.Put({.model_id = 42, .node_id = "n"}), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(copies_.Put({.model_id = 42, .node_id = "n"}), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(instances_.Put({.instance_id = "i", .model_id = 42}),
              HasReasonOf(Reason::kModelNotFound));
}

TEST_F(NodeTablesTest, CopyOfEachCommitIsKept) {
  const Model model = InsertModel("m");
  Copy copy{.model_id = model.id,
            .node_id = "node-a",
            .cache_path = "/c",
            .commit = "c1",
            .snapshot_path = "/c/s/c1",
            .filter = {.ignore_patterns = {"*.bin"}},
            .complete = true,
            .size_bytes = 7};
  ASSERT_THAT(copies_.Put(copy), IsOk());
  copy.commit = "c2";
  copy.complete = false;
  ASSERT_THAT(copies_.Put(copy), IsOk());
  copy.size_bytes = 8;
  ASSERT_THAT(copies_.Put(copy), IsOk());

  const auto found = copies_.List(model.id);

  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 2u);
  EXPECT_EQ((*found)[0].commit, "c2");
  EXPECT_FALSE((*found)[0].complete);
  EXPECT_EQ((*found)[0].size_bytes, 8);
  EXPECT_EQ((*found)[1].commit, "c1");
  EXPECT_TRUE((*found)[1].complete);
  EXPECT_EQ((*found)[1].cache_path, "/c");
  EXPECT_EQ((*found)[1].snapshot_path, "/c/s/c1");
  EXPECT_EQ((*found)[1].filter, copy.filter);
}

TEST_F(NodeTablesTest, CopiesOfOneNodeAreDeleted) {
  const Model model = InsertModel("m");
  ASSERT_THAT(copies_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());
  ASSERT_THAT(copies_.Put({.model_id = model.id, .node_id = "node-b"}), IsOk());

  ASSERT_THAT(copies_.Delete(model.id, "node-a"), IsOk());

  const auto found = copies_.List(model.id);
  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().node_id, "node-b");
}

TEST_F(NodeTablesTest, InstanceComesBackAsItWas) {
  const Model model = InsertModel("m");
  Instance instance{.instance_id = "i1",
                    .model_id = model.id,
                    .node_id = "node-a",
                    .pid = 4711,
                    .commit = "c1",
                    .spec = {.dtype = "float32"},
                    .devices = {{.device = "cpu",
                                 .weights_bytes = 1,
                                 .kv_cache_bytes = 2,
                                 .workspace_bytes = 3,
                                 .slack_bytes = 4}}};
  ASSERT_THAT(instances_.Put(instance), IsOk());
  instance.state = InstanceState::kReady;
  instance.load_seconds = 1.5;
  instance.active_requests = 2;
  instance.waiting_requests = 3;
  ASSERT_THAT(instances_.Put(instance), IsOk());

  const auto found = instances_.List();

  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 1u);
  const Instance& back = found->front();
  EXPECT_EQ(back.instance_id, "i1");
  EXPECT_EQ(back.model_name, "m");
  EXPECT_EQ(back.node_id, "node-a");
  EXPECT_EQ(back.pid, 4711);
  EXPECT_EQ(back.spec, instance.spec);
  EXPECT_EQ(back.devices, instance.devices);
  EXPECT_EQ(back.state, InstanceState::kReady);
  EXPECT_EQ(back.load_seconds, 1.5);
  EXPECT_EQ(back.active_requests, 2);
  EXPECT_EQ(back.waiting_requests, 3);
}

TEST_F(NodeTablesTest, InstancesGoSinglyOrWithTheirNode) {
  const Model model = InsertModel("m");
  for (const char* id : {"a1", "a2", "b1"}) {
    ASSERT_THAT(
        instances_.Put(
            {.instance_id = id, .model_id = model.id, .node_id = std::string("node-") + id[0]}),
        IsOk());
  }

  ASSERT_THAT(instances_.Delete("a1"), IsOk());
  EXPECT_EQ(instances_.List()->size(), 2u);
  ASSERT_THAT(instances_.DeleteNode("node-a"), IsOk());

  const auto left = instances_.List();
  ASSERT_THAT(left, IsOk());
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ(left->front().instance_id, "b1");
}

TEST_F(NodeTablesTest, HeartbeatIsByTheDatabasesClock) {
  Node node{.node_id = "n1", .name = "alpha", .address = "10.0.0.1:50051"};
  ASSERT_THAT(nodes_.Heartbeat(node), IsOk());
  const TimePoint first = nodes_.List()->front().heartbeat_time;
  node.caches_json = R"([{"name":"primary"}])";
  ASSERT_THAT(nodes_.Heartbeat(node), IsOk());

  const auto found = nodes_.List();

  ASSERT_THAT(found, IsOk());
  ASSERT_EQ(found->size(), 1u);
  EXPECT_EQ(found->front().name, "alpha");
  EXPECT_EQ(found->front().address, "10.0.0.1:50051");
  EXPECT_EQ(found->front().caches_json, R"([{"name": "primary"}])");
  EXPECT_EQ(found->front().devices_json, "[]");
  EXPECT_GT(first.time_since_epoch().count(), 0);
  EXPECT_GT(found->front().heartbeat_time, first);
}

TEST_F(ReservationsTableTest, SpaceIsPromisedOnce) {
  const auto reserve = [&](const char* operation, int64_t bytes) {
    return reservations_.Reserve({.operation = operation,
                                  .node_id = "n",
                                  .filesystem = "8:1",
                                  .where = "/data",
                                  .bytes = bytes,
                                  .free_bytes = [] { return 100; }});
  };
  ASSERT_THAT(reserve("one", 60), IsOk());

  const absl::Status refused = reserve("two", 50);

  EXPECT_THAT(refused, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_EQ(DetailsOf(refused).metadata.at("required_bytes"), "50");
  EXPECT_EQ(DetailsOf(refused).metadata.at("free_bytes"), "40");
  EXPECT_THAT(std::string(refused.message()), testing::HasSubstr("/data"));
  EXPECT_THAT(reserve("two", 40), IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 100);
  EXPECT_EQ(*reservations_.Reserved("8:1", "one"), 40);
  EXPECT_EQ(*reservations_.Reserved("8:2", ""), 0);
}

TEST_F(ReservationsTableTest, ReservationShrinksAndGoes) {
  const auto reserve = [&](int64_t bytes) {
    return reservations_.Reserve({.operation = "one",
                                  .node_id = "n",
                                  .filesystem = "8:1",
                                  .where = "/data",
                                  .bytes = bytes,
                                  .free_bytes = [] { return 100; }});
  };
  ASSERT_THAT(reserve(100), IsOk());
  ASSERT_THAT(reserve(30), IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 30);
  ASSERT_THAT(reserve(0), IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 0);
  ASSERT_THAT(reserve(20), IsOk());

  ASSERT_THAT(reservations_.Release("one"), IsOk());

  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 0);
}

TEST_F(ReservationsTableTest, ConcurrentReservationsNeverExceedTheSpace) {
  std::atomic<int> granted = 0;
  {
    std::latch start(8);
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        start.arrive_and_wait();
        const absl::Status status = reservations_.Reserve({.operation = "op" + std::to_string(i),
                                                           .node_id = "n",
                                                           .filesystem = "8:1",
                                                           .where = "/data",
                                                           .bytes = 30,
                                                           .free_bytes = [] { return 100; }});
        if (status.ok())
          ++granted;
        else
          EXPECT_THAT(status, HasReasonOf(Reason::kInsufficientDisk));
      });
    }
  }

  EXPECT_EQ(granted, 3);
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 90);
}

TEST_F(ReservationsTableTest, OperationThatEndedReservesNothing) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.RequestCancel(operation.name), IsOk());

  const absl::Status status = reservations_.Reserve({.operation = operation.name,
                                                     .node_id = "node-a",
                                                     .filesystem = "8:1",
                                                     .where = "/data",
                                                     .bytes = 1,
                                                     .free_bytes = [] { return 100; }});

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 0);
}

TEST_F(ReservationsTableTest, NodesOfOneMachineCountEachOthersBytes) {
  const auto reserve = [&](const char* operation, const char* node, int64_t bytes) {
    return reservations_.Reserve({.operation = operation,
                                  .node_id = node,
                                  .filesystem = "8:1",
                                  .where = "/data",
                                  .bytes = bytes,
                                  .free_bytes = [] { return 100; }});
  };
  ASSERT_THAT(reserve("one", "node-a", 60), IsOk());

  EXPECT_THAT(reserve("two", "node-b", 41), HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_THAT(reserve("two", "node-b", 40), IsOk());
}

TEST_F(ReservationsTableTest, PromisesOfANodeThatIsGoneKeepNobodyWaiting) {
  ASSERT_THAT(nodes_.Heartbeat({.node_id = "gone", .name = "gone"}), IsOk());
  ASSERT_THAT(reservations_.Reserve({.operation = "one",
                                     .node_id = "gone",
                                     .filesystem = "8:1",
                                     .where = "/data",
                                     .bytes = 60,
                                     .free_bytes = [] { return 100; }}),
              IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 60);

  RunSql(url_, "UPDATE nodes SET heartbeat_time = now() - interval '2 hours'");

  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 0);
}

// Whoever allocates lowers his reservation afterwards, so that what is free must be asked for after
// the others were summed up; and nobody else may reserve in between.
TEST_F(ReservationsTableTest, FreeBytesAreAskedForWhenNoOtherCanReserve) {
  std::jthread other;
  std::atomic<bool> other_ended = false;
  const auto reserve = [&](const char* operation,
                           std::function<absl::StatusOr<int64_t>()> free_bytes) {
    return reservations_.Reserve({.operation = operation,
                                  .node_id = "n",
                                  .filesystem = "8:1",
                                  .where = "/data",
                                  .bytes = 60,
                                  .free_bytes = std::move(free_bytes)});
  };

  const absl::Status first = reserve("one", [&]() -> absl::StatusOr<int64_t> {
    other = std::jthread([&] {
      EXPECT_THAT(reserve("two", [] { return 100; }), HasReasonOf(Reason::kInsufficientDisk));
      other_ended = true;
    });
    // It waits for us: for its lock, as the database tells.
    while (RunSql(url_,
                  "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
                  " AND NOT granted") == "0\n") {
      EXPECT_FALSE(other_ended);
      if (other_ended) break;
    }
    return 100;
  });

  EXPECT_THAT(first, IsOk());
  other.join();
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 60);
}

TEST_F(ReservationsTableTest, ErrorOfTheFilesystemReservesNothing) {
  const absl::Status status =
      reservations_.Reserve({.operation = "one",
                             .node_id = "n",
                             .filesystem = "8:1",
                             .where = "/data",
                             .bytes = 1,
                             .free_bytes = [] { return absl::NotFoundError("unmounted"); }});

  EXPECT_THAT(status, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 0);
}

TEST_F(ReservationsTableTest, ReservationOnlyShrinks) {
  ASSERT_THAT(reservations_.Reserve({.operation = "one",
                                     .node_id = "n",
                                     .filesystem = "8:1",
                                     .where = "/data",
                                     .bytes = 50,
                                     .free_bytes = [] { return 100; }}),
              IsOk());

  ASSERT_THAT(reservations_.Shrink("one", 70), IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 50);
  ASSERT_THAT(reservations_.Shrink("one", 20), IsOk());
  EXPECT_EQ(*reservations_.Reserved("8:1", ""), 20);
  ASSERT_THAT(reservations_.Shrink("one", 0), IsOk());
  EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM reservations"), "0\n");
}

TEST_F(ReservationsTableTest, FilesystemThatWasNamedAnewHasOneReservation) {
  for (const char* filesystem : {"boot-1 8:1", "boot-2 8:1"}) {
    ASSERT_THAT(reservations_.Reserve({.operation = "one",
                                       .node_id = "n",
                                       .filesystem = filesystem,
                                       .where = "/data",
                                       .bytes = 50,
                                       .free_bytes = [] { return 100; }}),
                IsOk());
  }

  EXPECT_EQ(*reservations_.Reserved("boot-1 8:1", ""), 0);
  EXPECT_EQ(*reservations_.Reserved("boot-2 8:1", ""), 50);
}

TEST_F(ReservationsTableTest, WhatOtherModelsReservedIsKnown) {
  const Model model = InsertModel("m");
  const Operation own = StartDownload(model);
  for (const std::string& operation : {own.name, std::string("other")}) {
    ASSERT_THAT(reservations_.Reserve({.operation = operation,
                                       .node_id = "n",
                                       .filesystem = "8:1",
                                       .where = "/data",
                                       .bytes = 30,
                                       .free_bytes = [] { return 100; }}),
                IsOk());
  }

  EXPECT_EQ(*reservations_.ReservedByOtherModels("8:1", model.id), 30);
}

}  // namespace
}  // namespace modeld
