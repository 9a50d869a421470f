#include "server/store/models_table.h"

#include <latch>
#include <thread>
#include <vector>

#include "tests/store/store_fixture.h"

namespace modeld {
namespace {

using std::string_literals::operator""s;
using testing::ElementsAre;

constexpr char kCommit[] = "0123456789012345678901234567890123456789";
constexpr char kOtherCommit[] = "9876543210987654321098765432109876543210";

class ModelsTableTest : public StoreTest {
 protected:
  // One finished operation of `model`.
  void FinishOne(const Model& model, OperationState state, const absl::Status& error) {
    StartDownload(model);
    ASSERT_THAT(operations_.Finish(ClaimOne(), state, error, {}), IsOk());
  }

  ModelState StateOf(const Model& model) {
    const absl::StatusOr<ModelView> view = models_.GetView(model.model_name);
    EXPECT_THAT(view, IsOk());
    return view.ok() ? view->state : ModelState::kUnspecified;
  }

  Instance InstanceOf(const Model& model, InstanceState state) {
    return {.instance_id = "i-" + model.model_name,
            .model_id = model.id,
            .node_id = "node-a",
            .state = state};
  }

  std::vector<std::string> Names(std::string_view after, int64_t limit,
                                 std::optional<ModelState> state = std::nullopt) {
    const auto views = models_.ListViews(after, limit, state);
    EXPECT_THAT(views, IsOk());
    std::vector<std::string> names;
    for (const ModelView& view : *views) names.push_back(view.model.model_name);
    return names;
  }
};

TEST_F(ModelsTableTest, InsertedRowComesBackWhole) {
  const Model model{.model_name = "m",
                    .hf_path = "org/m",
                    .revision = "v2",
                    .trust_remote_code = true,
                    .cache_location = CacheLocation::kCustom,
                    .cache_path = "/mnt/x",
                    .estimated_size_bytes = 5'000'000'000,
                    .filter = {.allow_patterns = {"*.json"}, .ignore_patterns = {"*.bin"}},
                    .token_credential = "team-a"};

  const absl::StatusOr<Model> inserted = models_.Insert(model);

  ASSERT_THAT(inserted, IsOk());
  const absl::StatusOr<Model> found = models_.GetById(inserted->id);
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->model_name, "m");
  EXPECT_EQ(found->hf_path, "org/m");
  EXPECT_EQ(found->revision, "v2");
  EXPECT_TRUE(found->trust_remote_code);
  EXPECT_EQ(found->cache_location, CacheLocation::kCustom);
  EXPECT_EQ(found->cache_path, "/mnt/x");
  EXPECT_EQ(found->estimated_size_bytes, 5'000'000'000);
  EXPECT_EQ(found->filter, model.filter);
  EXPECT_EQ(found->token_credential, "team-a");
  EXPECT_GT(found->create_time.time_since_epoch().count(), 0);
}

TEST_F(ModelsTableTest, SecondModelOfANameIsRefused) {
  InsertModel("m");

  EXPECT_THAT(models_.Insert({.model_name = "m", .hf_path = "other/m"}),
              HasReasonOf(Reason::kModelAlreadyExists));
}

TEST_F(ModelsTableTest, UnknownModelsAreNotFound) {
  const auto nothing = [](Model&) { return absl::OkStatus(); };

  EXPECT_THAT(models_.Get("no"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.GetById(42), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.GetView("no"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.Update("no", nothing), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.Delete("no"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.SetSnapshot(42, "main", kCommit, "/s", 1),
              HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(models_.SetResolved(42, kCommit, "", 1), HasReasonOf(Reason::kModelNotFound));
}

TEST_F(ModelsTableTest, NamesAreDataAndNeverSql) {
  const std::string hostile[] = {"'; DROP TABLE modelregistry; --", "a\"b\\c", "$1", "%s%n",
                                 "ä€😀"};
  for (const std::string& name : hostile) {
    ASSERT_THAT(models_.Insert({.model_name = name, .hf_path = name}), IsOk()) << name;
    const absl::StatusOr<Model> found = models_.Get(name);
    ASSERT_THAT(found, IsOk()) << name;
    EXPECT_EQ(found->hf_path, name);
  }
}

// libpq would cut the text at the NUL and find another model.
TEST_F(ModelsTableTest, TextThatPostgresCannotKeepIsRefused) {
  InsertModel("m");

  EXPECT_THAT(models_.Get("m\0x"s), HasReasonOf(Reason::kInvalidField));
  EXPECT_THAT(models_.Insert({.model_name = "\xff\xfe", .hf_path = "a/b"}),
              HasReasonOf(Reason::kInvalidField));
}

TEST_F(ModelsTableTest, UpdateWritesWhatTheChangeLeft) {
  InsertModel("m");

  const absl::StatusOr<Model> updated = models_.Update("m", [](Model& model) {
    model.trust_remote_code = true;
    model.revision = "dev";
    model.cache_location = CacheLocation::kSecondary;
    model.cache_path = "/big";
    model.filter.ignore_patterns = {"*.h5"};
    return absl::OkStatus();
  });

  ASSERT_THAT(updated, IsOk());
  const absl::StatusOr<Model> found = models_.Get("m");
  ASSERT_THAT(found, IsOk());
  EXPECT_TRUE(found->trust_remote_code);
  EXPECT_EQ(found->revision, "dev");
  EXPECT_EQ(found->cache_location, CacheLocation::kSecondary);
  EXPECT_EQ(found->cache_path, "/big");
  EXPECT_THAT(found->filter.ignore_patterns, ElementsAre("*.h5"));
  EXPECT_GE(found->update_time, found->create_time);
}

TEST_F(ModelsTableTest, RefusedChangeWritesNothing) {
  InsertModel("m");

  const auto updated = models_.Update("m", [](Model& model) {
    model.revision = "dev";
    return InvalidField("revision", "no");
  });

  EXPECT_THAT(updated, HasReasonOf(Reason::kInvalidField));
  EXPECT_EQ(models_.Get("m")->revision, "main");
}

TEST_F(ModelsTableTest, UpdateKeepsALocationThatOnlyAnotherProgramKnows) {
  RunSql(url_,
         "INSERT INTO modelregistry (model_name, hf_path, cache_location)"
         " VALUES ('m', 'o/m', 'tape')");

  ASSERT_THAT(models_.Update("m",
                             [](Model& model) {
                               model.revision = "dev";
                               return absl::OkStatus();
                             }),
              IsOk());

  EXPECT_EQ(RunSql(url_, "SELECT cache_location, cache_path IS NULL FROM modelregistry"),
            "tape|t\n");
}

TEST_F(ModelsTableTest, ConcurrentUpdatesAreNotLost) {
  InsertModel("m");
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        EXPECT_THAT(models_.Update("m",
                                   [](Model& model) {
                                     model.estimated_size_bytes += 1;
                                     return absl::OkStatus();
                                   }),
                    IsOk());
      });
    }
  }

  EXPECT_EQ(models_.Get("m")->estimated_size_bytes, 8);
}

TEST_F(ModelsTableTest, ResolvedCommitKeepsWhatBelongsToIt) {
  const Model model = InsertModel("m");
  ASSERT_THAT(models_.SetResolved(model.id, kCommit, R"({"a":1})", 10), IsOk());
  ASSERT_THAT(models_.SetSnapshot(model.id, "main", kCommit, "/s/1", 9), IsOk());
  EXPECT_EQ(models_.Get("m")->inspection_json, R"({"a": 1})");
  EXPECT_EQ(models_.Get("m")->size_bytes, 9);

  ASSERT_THAT(models_.SetResolved(model.id, kOtherCommit, "", 0), IsOk());

  const absl::StatusOr<Model> found = models_.Get("m");
  ASSERT_THAT(found, IsOk());
  EXPECT_EQ(found->commit, kOtherCommit);
  EXPECT_EQ(found->inspection_json, "");
  EXPECT_EQ(found->size_bytes, 0);
  EXPECT_EQ(found->estimated_size_bytes, 10);
  EXPECT_EQ(found->snapshot_path, "/s/1");
}

TEST_F(ModelsTableTest, DeleteTakesLoadsAndCopiesAndLeavesOperations) {
  const Model model = InsertModel("m");
  FinishOne(model, OperationState::kSucceeded, absl::OkStatus());
  ASSERT_THAT(loads_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());
  ASSERT_THAT(copies_.Put({.model_id = model.id, .node_id = "node-a"}), IsOk());

  ASSERT_THAT(models_.Delete("m"), IsOk());

  EXPECT_TRUE(loads_.List("node-a")->empty());
  EXPECT_TRUE(copies_.List(model.id)->empty());
  const auto operations = operations_.List("m", "", 10);
  ASSERT_THAT(operations, IsOk());
  ASSERT_EQ(operations->size(), 1u);
  EXPECT_EQ(operations->front().model_id, 0);
}

TEST_F(ModelsTableTest, ModelInUseIsNotDeleted) {
  const Model loaded = InsertModel("loaded");
  ASSERT_THAT(instances_.Put(InstanceOf(loaded, InstanceState::kDraining)), IsOk());
  const Model busy = InsertModel("busy");
  StartDownload(busy);

  EXPECT_THAT(models_.Delete("loaded"), HasReasonOf(Reason::kModelInUse));
  EXPECT_THAT(models_.Delete("busy"), HasReasonOf(Reason::kModelInUse));
}

// The contract's order, from the last rule to the first.
TEST_F(ModelsTableTest, StateIsTheFirstRuleThatHolds) {
  const Model model = InsertModel("m");
  EXPECT_EQ(StateOf(model), ModelState::kRegistered);

  ASSERT_THAT(models_.SetSnapshot(model.id, "main", kCommit, "/s", 1), IsOk());
  ASSERT_THAT(
      copies_.Put(
          {.model_id = model.id, .node_id = "node-b", .commit = kOtherCommit, .complete = true}),
      IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kRegistered);
  ASSERT_THAT(
      copies_.Put({.model_id = model.id, .node_id = "node-b", .commit = kCommit, .complete = true}),
      IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kDownloaded);

  FinishOne(model, OperationState::kFailed, Error(Reason::kHubRepoNotFound, "gone"));
  EXPECT_EQ(StateOf(model), ModelState::kFailed);
  EXPECT_THAT(models_.GetView("m")->error, HasReasonOf(Reason::kHubRepoNotFound));

  const Operation download = StartDownload(model);
  EXPECT_EQ(StateOf(model), ModelState::kDownloading);
  ASSERT_THAT(operations_.RequestPause(download.name), IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kDownloading);

  ASSERT_THAT(instances_.Put(InstanceOf(model, InstanceState::kLoading)), IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kLoading);
  ASSERT_THAT(instances_.Put(InstanceOf(model, InstanceState::kReady)), IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kReady);
  EXPECT_THAT(models_.GetView("m")->error, IsOk());
}

TEST_F(ModelsTableTest, OnlyTheNewestFinishedOperationCounts) {
  const Model model = InsertModel("m");
  FinishOne(model, OperationState::kFailed, Error(Reason::kHubUnavailable, "away"));
  FinishOne(model, OperationState::kCancelled, absl::CancelledError("enough"));

  EXPECT_EQ(StateOf(model), ModelState::kRegistered);
}

TEST_F(ModelsTableTest, LoadDownloadsOnlyInItsDownloadPhases) {
  const Model model = InsertModel("m");
  const auto started = operations_.Start(
      {.name = "op", .kind = OperationKind::kLoad, .model_id = model.id, .node_id = "node-a"},
      [](const auto&) { return OperationsTable::Decision{.insert = true}; });
  ASSERT_THAT(started, IsOk());
  const OperationLease lease = ClaimOne();
  EXPECT_EQ(StateOf(model), ModelState::kRegistered);

  ASSERT_THAT(operations_.WriteProgress(lease, {.phase = OperationPhase::kDownloading}), IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kDownloading);
  ASSERT_THAT(operations_.WriteProgress(lease, {.phase = OperationPhase::kLoading}), IsOk());
  EXPECT_EQ(StateOf(model), ModelState::kRegistered);
}

TEST_F(ModelsTableTest, PagesAreInByteOrderAndLeaveNothingOut) {
  for (const char* name : {"b", "B", "a-1", "a.1", "a1", "Z"}) InsertModel(name);

  EXPECT_THAT(Names("", 4), ElementsAre("B", "Z", "a-1", "a.1"));
  EXPECT_THAT(Names("a.1", 4), ElementsAre("a1", "b"));
  EXPECT_THAT(Names("b", 4), ElementsAre());
}

TEST_F(ModelsTableTest, PagesOfOneStateAreFull) {
  RunSql(url_,
         "INSERT INTO modelregistry (model_name, hf_path)"
         " SELECT 'n' || g, 'o/n' FROM generate_series(1000, 1449) g");
  for (const char* name : {"n1003", "n1299", "n1449"}) {
    const absl::StatusOr<Model> model = models_.Get(name);
    ASSERT_THAT(model, IsOk());
    ASSERT_THAT(instances_.Put(InstanceOf(*model, InstanceState::kReady)), IsOk());
  }

  EXPECT_THAT(Names("", 2, ModelState::kReady), ElementsAre("n1003", "n1299"));
  EXPECT_THAT(Names("n1299", 2, ModelState::kReady), ElementsAre("n1449"));
  EXPECT_EQ(Names("", 1000, ModelState::kRegistered).size(), 447u);
}

TEST_F(ModelsTableTest, RowsOfOneRepositoryAreFound) {
  ASSERT_THAT(models_.Insert({.model_name = "a", .hf_path = "o/r", .cache_path = "/c"}), IsOk());
  ASSERT_THAT(models_.Insert({.model_name = "b", .hf_path = "o/r", .cache_path = "/c"}), IsOk());
  ASSERT_THAT(models_.Insert({.model_name = "c", .hf_path = "o/r", .cache_path = "/d"}), IsOk());
  ASSERT_THAT(models_.Insert({.model_name = "d", .hf_path = "o/s", .cache_path = "/c"}), IsOk());

  const auto rows = models_.ListByRepo("/c", "o/r");

  ASSERT_THAT(rows, IsOk());
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].model_name, "a");
  EXPECT_EQ((*rows)[1].model_name, "b");
}

}  // namespace
}  // namespace modeld
