#include "server/store/operations_table.h"

#include <latch>
#include <set>
#include <thread>
#include <vector>

#include "server/base/mutex.h"
#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;

class OperationsTableTest : public StoreTest {
 protected:
  OperationState StateOf(const std::string& name) {
    const absl::StatusOr<Operation> operation = operations_.Get(name);
    EXPECT_THAT(operation, IsOk());
    return operation.ok() ? operation->state : OperationState::kUnspecified;
  }

  void ReserveFor(const std::string& operation) {
    ASSERT_THAT(reservations_.Reserve({.operation = operation,
                                       .node_id = "node-a",
                                       .filesystem = "8:1",
                                       .where = "/data",
                                       .bytes = 10,
                                       .free_bytes = [] { return 100; }}),
                IsOk());
  }
  int64_t ReservedBytes() { return reservations_.Reserved("8:1", "").value_or(-1); }
};

TEST_F(OperationsTableTest, StartedOperationComesBackWhole) {
  const Model model = InsertModel("m");
  const Operation asked{.name = "op-1",
                        .kind = OperationKind::kLoad,
                        .model_id = model.id,
                        .model_name = "m",
                        .node_id = "node-a",
                        .spec = {.revision = "main", .load = {.dtype = "float32"}, .pinned = true}};

  const absl::StatusOr<Operation> started = operations_.Start(
      asked, [](const auto&) { return OperationsTable::Decision{.insert = true}; });

  ASSERT_THAT(started, IsOk());
  const absl::StatusOr<Operation> found = operations_.Get("op-1");
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->kind, OperationKind::kLoad);
  EXPECT_EQ(found->model_id, model.id);
  EXPECT_EQ(found->model_name, "m");
  EXPECT_EQ(found->node_id, "node-a");
  EXPECT_EQ(found->spec.revision, "main");
  EXPECT_EQ(found->spec.load, asked.spec.load);
  EXPECT_TRUE(found->spec.pinned);
  EXPECT_EQ(found->state, OperationState::kPending);
  EXPECT_FALSE(found->end_time.has_value());
  EXPECT_FALSE(found->progress.eta.has_value());
  EXPECT_THAT(found->error, IsOk());
}

TEST_F(OperationsTableTest, FinishedOperationMayBeInserted) {
  const Model model = InsertModel("m");

  const absl::StatusOr<Operation> started =
      operations_.Start({.name = "op-1",
                         .kind = OperationKind::kLoad,
                         .model_id = model.id,
                         .node_id = "node-a",
                         .state = OperationState::kSucceeded},
                        [](const auto&) { return OperationsTable::Decision{.insert = true}; });

  ASSERT_THAT(started, IsOk());
  EXPECT_TRUE(started->done());
  EXPECT_TRUE(started->end_time.has_value());
}

TEST_F(OperationsTableTest, DecideSeesActiveOperationsOfTheNodeOldestFirst) {
  const Model model = InsertModel("m");
  const Operation first = StartDownload(model);
  const Operation second = StartDownload(model);
  const Operation ended = StartDownload(model);
  ASSERT_THAT(operations_.RequestCancel(ended.name), IsOk());
  StartDownload(InsertModel("other"));

  std::vector<std::string> seen;
  const absl::StatusOr<Operation> joined = operations_.Start(
      {.name = "new", .model_id = model.id, .node_id = "node-a"}, [&](const auto& active) {
        for (const Operation& operation : active) seen.push_back(operation.name);
        return OperationsTable::Decision{.join = second.name};
      });

  ASSERT_THAT(joined, IsOk());
  EXPECT_EQ(joined->name, second.name);
  EXPECT_THAT(seen, ElementsAre(first.name, second.name));
  EXPECT_THAT(operations_.Get("new"), HasReasonOf(Reason::kOperationNotFound));
}

TEST_F(OperationsTableTest, RefusalOfDecideIsHandedOn) {
  const Model model = InsertModel("m");

  const auto started =
      operations_.Start({.name = "new", .model_id = model.id, .node_id = "node-a"},
                        [](const auto&) -> absl::StatusOr<OperationsTable::Decision> {
                          return Error(Reason::kOperationInProgress, "busy");
                        });

  EXPECT_THAT(started, HasReasonOf(Reason::kOperationInProgress));
  EXPECT_TRUE(operations_.List(std::nullopt, "", 10)->empty());
}

TEST_F(OperationsTableTest, StartOfADeletedModelIsRefused) {
  EXPECT_THAT(
      operations_.Start({.name = "new", .model_id = 42, .model_name = "gone"},
                        [](const auto&) { return OperationsTable::Decision{.insert = true}; }),
      HasReasonOf(Reason::kModelNotFound));
}

TEST_F(OperationsTableTest, RequestsThatRaceShareOneOperation) {
  const Model model = InsertModel("m");
  Mutex mutex;
  std::set<std::string> names;
  {
    std::latch start(8);
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        const absl::StatusOr<Operation> started =
            operations_.Start({.name = RandomUuid(),
                               .kind = OperationKind::kDownload,
                               .model_id = model.id,
                               .node_id = "node-a"},
                              [](const std::vector<Operation>& active) {
                                if (active.empty())
                                  return OperationsTable::Decision{.insert = true};
                                return OperationsTable::Decision{.join = active.front().name};
                              });
        ASSERT_THAT(started, IsOk());
        MutexLock lock(mutex);
        names.insert(started->name);
      });
    }
  }

  EXPECT_EQ(names.size(), 1u);
  EXPECT_EQ(operations_.List("m", "", 100)->size(), 1u);
}

TEST_F(OperationsTableTest, PagesAreNewestFirstAndLeaveNothingOut) {
  const Model model = InsertModel("m");
  std::vector<std::string> names;
  for (int i = 0; i < 5; ++i) names.push_back(StartDownload(model).name);
  StartDownload(InsertModel("other"));
  const auto page = [&](std::string_view before) -> std::vector<std::string> {
    std::vector<std::string> out;
    const auto operations = operations_.List("m", before, 2);
    EXPECT_THAT(operations, IsOk());
    for (const Operation& operation : *operations) out.push_back(operation.name);
    return out;
  };

  EXPECT_THAT(page(""), ElementsAre(names[4], names[3]));
  EXPECT_THAT(page(names[3]), ElementsAre(names[2], names[1]));
  EXPECT_THAT(page(names[1]), ElementsAre(names[0]));
  EXPECT_EQ(operations_.List(std::nullopt, "", 100)->size(), 6u);
  EXPECT_THAT(operations_.List("m", "no such", 2), HasReasonOf(Reason::kOperationNotFound));
}

TEST_F(OperationsTableTest, ClaimsGoByPriorityAndAgeAndOnlyToTheirNode) {
  const Model model = InsertModel("m");
  const Operation low = StartDownload(model, -1);
  const Operation first = StartDownload(model);
  const Operation second = StartDownload(model);
  const Operation urgent = StartDownload(model, 5);

  EXPECT_TRUE(operations_.Claim("node-b", seconds(30), {10, 10})->empty());
  const auto claimed = operations_.Claim("node-a", seconds(30), {3, 3});

  ASSERT_THAT(claimed, IsOk());
  ASSERT_EQ(claimed->size(), 3u);
  EXPECT_EQ((*claimed)[0].name, urgent.name);
  EXPECT_EQ((*claimed)[1].name, first.name);
  EXPECT_EQ((*claimed)[2].name, second.name);
  EXPECT_EQ((*claimed)[0].state, OperationState::kRunning);
  EXPECT_EQ((*claimed)[0].owner, "node-a");
  EXPECT_EQ((*claimed)[0].epoch, 1);
  EXPECT_EQ(ClaimOne().name, low.name);
}

TEST_F(OperationsTableTest, NoOperationIsClaimedTwice) {
  const Model model = InsertModel("m");
  for (int i = 0; i < 40; ++i) StartDownload(model);
  Mutex mutex;
  std::vector<std::string> names;
  {
    std::latch start(4);
    std::vector<std::jthread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        for (int round = 0; round < 20; ++round) {
          const auto claimed = operations_.Claim("node-a", seconds(30), {3, 3});
          ASSERT_THAT(claimed, IsOk());
          MutexLock lock(mutex);
          for (const Operation& operation : *claimed) names.push_back(operation.name);
        }
      });
    }
  }

  EXPECT_EQ(names.size(), 40u);
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()).size(), 40u);
}

TEST_F(OperationsTableTest, LapsedLeaseIsClaimableAndItsOldOwnerMustStop) {
  StartDownload(InsertModel("m"));
  const OperationLease old = ClaimOne(seconds(0));

  const OperationLease taken = ClaimOne();

  EXPECT_EQ(taken.name, old.name);
  EXPECT_EQ(taken.epoch, old.epoch + 1);
  const auto aborted = StatusIs(absl::StatusCode::kAborted);
  EXPECT_THAT(operations_.Renew(old, seconds(30)), aborted);
  EXPECT_THAT(operations_.WriteProgress(old, {.bytes_done = 99}), aborted);
  EXPECT_THAT(operations_.Finish(old, OperationState::kSucceeded, absl::OkStatus(), {}), aborted);
  EXPECT_THAT(operations_.GiveBack(old, milliseconds(0), absl::OkStatus(), {}), aborted);
  EXPECT_THAT(operations_.Pause(old, {}), aborted);
  EXPECT_EQ(operations_.Get(old.name)->progress.bytes_done, 0);
  EXPECT_THAT(operations_.Renew(taken, seconds(30)), IsOk());
}

TEST_F(OperationsTableTest, LeaseOfAnotherNodeIsNoLease) {
  StartDownload(InsertModel("m"));
  OperationLease lease = ClaimOne();
  lease.owner = "node-b";

  EXPECT_THAT(operations_.Renew(lease, seconds(30)), StatusIs(absl::StatusCode::kAborted));
}

TEST_F(OperationsTableTest, RenewedLeaseIsNotClaimable) {
  StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne(seconds(0));

  ASSERT_THAT(operations_.Renew(lease, seconds(30)), IsOk());

  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
}

TEST_F(OperationsTableTest, ProgressIsReadAsItWasWrittenAndRenewsTheLease) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne(seconds(0));
  OperationProgress progress{.phase = OperationPhase::kDownloading,
                             .bytes_done = 5'000'000'000,
                             .bytes_total = 9'000'000'000,
                             .bytes_per_second = 1.25e8,
                             .eta = milliseconds(32'000),
                             .files_done = 1,
                             .files_total = 2};
  progress.files = {
      {.path = "a/ü.bin", .size_bytes = 9, .bytes_done = 9, .state = FileState::kDone}};

  const auto wishes = operations_.WriteProgress(lease, progress);

  ASSERT_THAT(wishes, IsOk());
  EXPECT_FALSE(wishes->cancel);
  EXPECT_FALSE(wishes->pause);
  const OperationProgress back = operations_.Get(operation.name)->progress;
  EXPECT_EQ(back.phase, progress.phase);
  EXPECT_EQ(back.bytes_done, progress.bytes_done);
  EXPECT_EQ(back.bytes_total, progress.bytes_total);
  EXPECT_EQ(back.bytes_per_second, progress.bytes_per_second);
  EXPECT_EQ(back.eta, progress.eta);
  EXPECT_EQ(back.files_done, 1);
  EXPECT_EQ(back.files_total, 2);
  EXPECT_EQ(back.files, progress.files);
  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
}

TEST_F(OperationsTableTest, FinishKeepsErrorAndProgressAndGivesTheReservationBack) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();
  ReserveFor(operation.name);

  ASSERT_THAT(operations_.Finish(lease, OperationState::kFailed,
                                 Error(Reason::kDigestMismatch, std::string("bad\0byte", 8)),
                                 {.bytes_done = 7}),
              IsOk());

  const absl::StatusOr<Operation> found = operations_.Get(operation.name);
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->state, OperationState::kFailed);
  EXPECT_THAT(found->error, HasReasonOf(Reason::kDigestMismatch));
  EXPECT_EQ(found->progress.bytes_done, 7);
  EXPECT_TRUE(found->end_time.has_value());
  EXPECT_EQ(found->owner, "");
  EXPECT_EQ(ReservedBytes(), 0);
  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
}

TEST_F(OperationsTableTest, GivenBackOperationWaitsForItsTime) {
  const Operation operation = StartDownload(InsertModel("m"));

  ASSERT_THAT(operations_.GiveBack(ClaimOne(), milliseconds(3'600'000),
                                   Error(Reason::kHubUnavailable, "away"), {}),
              IsOk());

  EXPECT_EQ(StateOf(operation.name), OperationState::kPending);
  EXPECT_THAT(operations_.Get(operation.name)->error, HasReasonOf(Reason::kHubUnavailable));
  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
}

TEST_F(OperationsTableTest, GivenBackOperationWithoutDelayIsDueAtOnce) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.GiveBack(ClaimOne(), milliseconds(0), absl::OkStatus(), {}), IsOk());

  EXPECT_EQ(ClaimOne().name, operation.name);
}

TEST_F(OperationsTableTest, ReclaimTakesTheNodesOwnOperationsBack) {
  const Model model = InsertModel("m");
  const Operation plain = StartDownload(model);
  const Operation cancelled = StartDownload(model);
  const Operation paused = StartDownload(model);
  ASSERT_EQ(operations_.Claim("node-a", seconds(3600), {10, 10})->size(), 3u);
  ReserveFor(cancelled.name);
  ASSERT_THAT(operations_.RequestCancel(cancelled.name), IsOk());
  ASSERT_THAT(operations_.RequestPause(paused.name), IsOk());

  ASSERT_THAT(operations_.Reclaim("node-b"), IsOk());
  EXPECT_EQ(StateOf(plain.name), OperationState::kRunning);
  ASSERT_THAT(operations_.Reclaim("node-a"), IsOk());

  EXPECT_EQ(StateOf(cancelled.name), OperationState::kCancelled);
  EXPECT_EQ(StateOf(paused.name), OperationState::kPaused);
  EXPECT_EQ(ReservedBytes(), 0);
  EXPECT_EQ(ClaimOne().name, plain.name);
}

TEST_F(OperationsTableTest, PendingOperationIsCancelledAtOnce) {
  const Operation operation = StartDownload(InsertModel("m"));
  ReserveFor(operation.name);

  const absl::StatusOr<Operation> cancelled = operations_.RequestCancel(operation.name);

  ASSERT_THAT(cancelled, IsOk());
  EXPECT_EQ(cancelled->state, OperationState::kCancelled);
  EXPECT_THAT(cancelled->error, StatusIs(absl::StatusCode::kCancelled));
  EXPECT_TRUE(cancelled->end_time.has_value());
  EXPECT_EQ(ReservedBytes(), 0);
  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
}

TEST_F(OperationsTableTest, RunningOperationHearsWhatIsWished) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();

  ASSERT_THAT(operations_.RequestPause(operation.name), IsOk());
  ASSERT_THAT(operations_.RequestCancel(operation.name), IsOk());

  EXPECT_EQ(StateOf(operation.name), OperationState::kRunning);
  const auto wishes = operations_.WriteProgress(lease, {});
  ASSERT_THAT(wishes, IsOk());
  EXPECT_TRUE(wishes->cancel);
  EXPECT_TRUE(wishes->pause);
}

TEST_F(OperationsTableTest, PausedOperationRunsOnlyWhenResumed) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.Pause(ClaimOne(), {}), IsOk());
  EXPECT_EQ(StateOf(operation.name), OperationState::kPaused);
  EXPECT_TRUE(operations_.Claim("node-a", seconds(30), {10, 10})->empty());
  EXPECT_EQ(operations_.RequestPause(operation.name)->state, OperationState::kPaused);

  const absl::StatusOr<Operation> resumed = operations_.Resume(operation.name);

  ASSERT_THAT(resumed, IsOk());
  EXPECT_EQ(resumed->state, OperationState::kPending);
  EXPECT_EQ(ClaimOne().name, operation.name);
}

TEST_F(OperationsTableTest, ResumeTakesAPauseBackThatWasNotObeyedYet) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();
  ASSERT_THAT(operations_.RequestPause(operation.name), IsOk());

  ASSERT_THAT(operations_.Resume(operation.name), IsOk());

  EXPECT_FALSE(operations_.WriteProgress(lease, {})->pause);
}

TEST_F(OperationsTableTest, EndedOperationsCannotBeChanged) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.RequestCancel(operation.name), IsOk());

  const auto not_active = HasReasonOf(Reason::kOperationNotActive);
  EXPECT_THAT(operations_.RequestCancel(operation.name), not_active);
  EXPECT_THAT(operations_.RequestPause(operation.name), not_active);
  EXPECT_THAT(operations_.Resume(operation.name), not_active);
  EXPECT_THAT(operations_.RequestCancel("'; --"), HasReasonOf(Reason::kOperationNotFound));
}

TEST_F(OperationsTableTest, RunningOperationThatWasNeverPausedCannotBeResumed) {
  const Operation operation = StartDownload(InsertModel("m"));
  ClaimOne();

  EXPECT_THAT(operations_.Resume(operation.name), HasReasonOf(Reason::kOperationNotActive));
}

TEST_F(OperationsTableTest, LoadsAreClaimedWhereDownloadsHaveNoRoom) {
  const Model model = InsertModel("m");
  const Operation download = StartDownload(model, 500);
  const auto load = operations_.Start(
      {.name = "load", .kind = OperationKind::kLoad, .model_id = model.id, .node_id = "node-a"},
      [](const auto&) { return OperationsTable::Decision{.insert = true}; });
  ASSERT_THAT(load, IsOk());

  const auto claimed = operations_.Claim("node-a", seconds(30), {.downloads = 0, .others = 1});

  ASSERT_THAT(claimed, IsOk());
  ASSERT_EQ(claimed->size(), 1u);
  EXPECT_EQ(claimed->front().name, "load");
  EXPECT_EQ(ClaimOne().name, download.name);
}

TEST_F(OperationsTableTest, OnlyDownloadsAboveAPriorityAreClaimed) {
  const Model model = InsertModel("m");
  StartDownload(model, 4);
  const Operation above = StartDownload(model, 5);

  const auto claimed =
      operations_.Claim("node-a", seconds(30), {.downloads = 10, .downloads_above = 4});

  ASSERT_THAT(claimed, IsOk());
  ASSERT_EQ(claimed->size(), 1u);
  EXPECT_EQ(claimed->front().name, above.name);
}

TEST_F(OperationsTableTest, OwnerHearsPriorityAndLimitThatWereChanged) {
  const Model model = InsertModel("m");
  const Operation operation = StartDownload(model, 3);
  const OperationLease lease = ClaimOne();

  const auto raised = operations_.RaiseDownloads(model.id, "node-a", 100);
  const auto limited = operations_.SetBytesPerSecondMax(operation.name, 5'000);

  ASSERT_THAT(raised, IsOk());
  EXPECT_THAT(*raised, ElementsAre(operation.name));
  ASSERT_THAT(limited, IsOk());
  EXPECT_EQ(limited->spec.bytes_per_second_max, 5'000);
  EXPECT_EQ(limited->spec.priority, 100);
  const auto wishes = operations_.WriteProgress(lease, {});
  ASSERT_THAT(wishes, IsOk());
  EXPECT_EQ(wishes->priority, 100);
  EXPECT_EQ(wishes->bytes_per_second_max, 5'000);
}

TEST_F(OperationsTableTest, PrioritiesAreOnlyRaisedAndOnlyOfThatModelsDownloads) {
  const Model model = InsertModel("m");
  const Operation high = StartDownload(model, 200);
  const Operation other = StartDownload(InsertModel("other"));

  EXPECT_TRUE(operations_.RaiseDownloads(model.id, "node-a", 100)->empty());
  EXPECT_TRUE(operations_.RaiseDownloads(model.id, "node-b", 300)->empty());

  EXPECT_EQ(operations_.Get(high.name)->spec.priority, 200);
  EXPECT_EQ(operations_.Get(other.name)->spec.priority, 0);
}

TEST_F(OperationsTableTest, LimitIsKeptFromTheStartUntilTheEnd) {
  const Model model = InsertModel("m");
  const auto started =
      operations_.Start({.name = "op",
                         .kind = OperationKind::kDownload,
                         .model_id = model.id,
                         .node_id = "node-a",
                         .spec = {.bytes_per_second_max = 7}},
                        [](const auto&) { return OperationsTable::Decision{.insert = true}; });

  ASSERT_THAT(started, IsOk());
  EXPECT_EQ(operations_.Get("op")->spec.bytes_per_second_max, 7);
  ASSERT_THAT(operations_.RequestCancel("op"), IsOk());
  EXPECT_THAT(operations_.SetBytesPerSecondMax("op", 8), HasReasonOf(Reason::kOperationNotActive));
}

class WaitForSpaceTest : public OperationsTableTest {
 protected:
  absl::Status NoRoom() { return InsufficientBytes(Reason::kInsufficientDisk, "/data", 10, 3); }
};

TEST_F(WaitForSpaceTest, ItIsPausedWithItsErrorAndGivesItsReservationBack) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();
  ReserveFor(operation.name);

  ASSERT_THAT(
      operations_.WaitForSpace(lease, NoRoom(),
                               {.bytes_done = 5, .bytes_per_second = 9, .eta = milliseconds(3)}),
      IsOk());

  const auto waiting = operations_.Get(operation.name);
  ASSERT_THAT(waiting, IsOk());
  EXPECT_EQ(waiting->state, OperationState::kPaused);
  EXPECT_TRUE(waiting->waits_for_space);
  EXPECT_THAT(waiting->error, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_EQ(waiting->progress.bytes_done, 5);
  EXPECT_EQ(waiting->progress.bytes_per_second, 0);
  EXPECT_FALSE(waiting->progress.eta.has_value());
  EXPECT_EQ(ReservedBytes(), 0);
  EXPECT_EQ(operations_.ListPaused("node-a")->size(), 1u);
  EXPECT_TRUE(operations_.ListPaused("node-b")->empty());
}

TEST_F(WaitForSpaceTest, ItsEndMakesItPendingWithoutAnError) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.WaitForSpace(ClaimOne(), NoRoom(), {}), IsOk());

  ASSERT_THAT(operations_.EndWaitForSpace(operation.name), IsOk());

  EXPECT_EQ(StateOf(operation.name), OperationState::kPending);
  EXPECT_THAT(operations_.Get(operation.name)->error, IsOk());
  EXPECT_FALSE(operations_.Get(operation.name)->waits_for_space);
  EXPECT_EQ(ClaimOne().name, operation.name);
}

TEST_F(WaitForSpaceTest, PauseByRequestOutlivesTheEndOfTheWait) {
  const Operation operation = StartDownload(InsertModel("m"));
  ASSERT_THAT(operations_.WaitForSpace(ClaimOne(), NoRoom(), {}), IsOk());

  const auto paused = operations_.RequestPause(operation.name);
  ASSERT_THAT(operations_.EndWaitForSpace(operation.name), IsOk());

  ASSERT_THAT(paused, IsOk());
  EXPECT_FALSE(paused->waits_for_space);
  EXPECT_THAT(paused->error, IsOk());
  EXPECT_EQ(StateOf(operation.name), OperationState::kPaused);
}

TEST_F(WaitForSpaceTest, WhatWasAskedForMeanwhileIsObeyedInstead) {
  const Model model = InsertModel("m");
  const Operation to_pause = StartDownload(model);
  const OperationLease pausing = ClaimOne();
  const Operation to_cancel = StartDownload(model);
  const OperationLease cancelling = ClaimOne();
  ReserveFor(to_cancel.name);
  ASSERT_THAT(operations_.RequestPause(to_pause.name), IsOk());
  ASSERT_THAT(operations_.RequestCancel(to_cancel.name), IsOk());

  ASSERT_THAT(operations_.WaitForSpace(pausing, NoRoom(), {}), IsOk());
  ASSERT_THAT(operations_.WaitForSpace(cancelling, NoRoom(), {}), IsOk());

  EXPECT_EQ(StateOf(to_pause.name), OperationState::kPaused);
  EXPECT_FALSE(operations_.Get(to_pause.name)->waits_for_space);
  EXPECT_EQ(StateOf(to_cancel.name), OperationState::kCancelled);
  EXPECT_TRUE(operations_.Get(to_cancel.name)->end_time.has_value());
  EXPECT_EQ(ReservedBytes(), 0);
}

TEST_F(OperationsTableTest, CancelThatCameBeforeThePauseWins) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();
  ASSERT_THAT(operations_.RequestPause(operation.name), IsOk());
  ASSERT_THAT(operations_.RequestCancel(operation.name), IsOk());

  ASSERT_THAT(operations_.Pause(lease, {}), IsOk());

  EXPECT_EQ(StateOf(operation.name), OperationState::kCancelled);
}

TEST_F(OperationsTableTest, PausedOperationKeepsItsProgressAndItsReservation) {
  const Operation operation = StartDownload(InsertModel("m"));
  const OperationLease lease = ClaimOne();
  ReserveFor(operation.name);

  ASSERT_THAT(operations_.Pause(lease, {.bytes_done = 42, .bytes_total = 50}), IsOk());

  EXPECT_EQ(operations_.Get(operation.name)->progress.bytes_done, 42);
  EXPECT_EQ(ReservedBytes(), 10);
}

}  // namespace
}  // namespace modeld
