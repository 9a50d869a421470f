#include "server/control/registry.h"

#include <filesystem>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "server/cache/repo_cache.h"
#include "server/control/model_watch.h"
#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class RegistryTest : public ControlTest {
 protected:
  // No loader: rows stay as the registry leaves them.
  void SetUp() override {
    DaemonOptions options = Options();
    options.with_loader = false;
    Start(options);
  }
  Registry& registry() { return daemon().registry; }
  absl::Status RegisterStatus(const RegisterRequest& request) {
    return registry().Register(request, {}).status();
  }
  std::string RowCount() { return RunSql(url_, "SELECT count(*) FROM modelregistry"); }
};

TEST_F(RegistryTest, ARegisteredModelHasTheHubsCommitSizeAndInspection) {
  AddRepo("org/m", 50'000);

  const auto registered = registry().Register({.model_name = "m", .hf_path = "org/m"}, {});

  ASSERT_THAT(registered, IsOk());
  const Model& model = registered->view.model;
  EXPECT_TRUE(IsCommit(model.commit));
  EXPECT_EQ(model.revision, "main");
  EXPECT_EQ(model.cache_path, cache());
  EXPECT_GT(model.estimated_size_bytes, 50'000);
  EXPECT_EQ(registered->space.required_bytes, model.estimated_size_bytes);
  EXPECT_TRUE(registered->space.sufficient);
  EXPECT_THAT(model.inspection_json, HasSubstr("llama"));
  EXPECT_EQ(registered->view.state, ModelState::kRegistered);
}

TEST_F(RegistryTest, OnlyFilesThatThePatternsKeepCount) {
  AddRepo("org/m", 50'000);

  const auto registered = registry().Register(
      {.model_name = "m", .hf_path = "org/m", .filter = {.allow_patterns = {"*.json"}}}, {});

  ASSERT_THAT(registered, IsOk());
  EXPECT_LT(registered->space.required_bytes, 1'000);
}

TEST_F(RegistryTest, TheThreeLocationsResolveToTheirPaths) {
  AddRepo("org/m");
  const std::string custom = folder_.path() + "/custom/big";

  EXPECT_THAT(RegisterStatus({.model_name = "a", .hf_path = "org/m", .cache_location = "primary"}),
              IsOk());
  EXPECT_THAT(
      RegisterStatus({.model_name = "b", .hf_path = "org/m", .cache_location = "secondary"}),
      IsOk());
  EXPECT_THAT(RegisterStatus({.model_name = "c",
                              .hf_path = "org/m",
                              .cache_location = "custom",
                              .cache_path = custom}),
              IsOk());

  EXPECT_EQ(registry().Get("a")->model.cache_path, cache());
  EXPECT_EQ(registry().Get("b")->model.cache_path, folder_.path() + "/second");
  EXPECT_EQ(registry().Get("c")->model.cache_path, custom);
}

TEST_F(RegistryTest, BadFieldsAreNamedAndNothingIsWritten) {
  const std::string root = folder_.path() + "/custom";
  std::filesystem::create_directory_symlink("/tmp", root + "/out");
  struct Case {
    RegisterRequest request;
    std::string field;
  };
  const auto custom = [](const std::string& path) {
    return RegisterRequest{
        .model_name = "m", .hf_path = "org/m", .cache_location = "custom", .cache_path = path};
  };
  const std::vector<Case> cases = {
      {{.model_name = "", .hf_path = "org/m"}, "model_name"},
      {{.model_name = std::string(97, 'a'), .hf_path = "org/m"}, "model_name"},
      {{.model_name = "../m", .hf_path = "org/m"}, "model_name"},
      {{.model_name = "m\n", .hf_path = "org/m"}, "model_name"},
      {{.model_name = "m", .hf_path = ""}, "hf_path"},
      {{.model_name = "m", .hf_path = "org/../m"}, "hf_path"},
      {{.model_name = "m", .hf_path = "a/b/c"}, "hf_path"},
      {{.model_name = "m", .hf_path = "org/m", .revision = "a..b"}, "revision"},
      {{.model_name = "m", .hf_path = "org/m", .cache_location = "tertiary"}, "cache_location"},
      {{.model_name = "m", .hf_path = "org/m", .cache_path = "/x"}, "cache_path"},
      {{.model_name = "m", .hf_path = "org/m", .estimated_size_mb = -1}, "estimated_size_mb"},
      {{.model_name = "m",
        .hf_path = "org/m",
        .estimated_size_mb = std::numeric_limits<int64_t>::max()},
       "estimated_size_mb"},
      {{.model_name = "m", .hf_path = "org/m", .filter = {.allow_patterns = {""}}},
       "allow_patterns"},
      {custom(""), "cache_path"},
      {custom("relative"), "cache_path"},
      {custom("/etc"), "cache_path"},
      {custom(root + "/../../etc"), "cache_path"},
      {custom(root + "/out/x"), "cache_path"},
  };

  for (const Case& c : cases) {
    EXPECT_THAT(RegisterStatus(c.request), NamesField(c.field)) << c.field;
  }
  EXPECT_EQ(RowCount(), "0\n");
}

TEST_F(RegistryTest, WhatTheHubRefusesIsTheCallersError) {
  AddRepo("org/m");
  AddRepo("org/gated");
  AddRepo("org/private");
  hub_.ChangeRepo("org/private", R"({"private":true})");
  hub_.ChangeRepo("org/gated", R"({"gated":"auto"})");

  EXPECT_THAT(RegisterStatus({.model_name = "a", .hf_path = "org/none"}),
              HasReasonOf(Reason::kHubRepoNotFound));
  EXPECT_THAT(RegisterStatus({.model_name = "a", .hf_path = "org/m", .revision = "nope"}),
              HasReasonOf(Reason::kHubRevisionNotFound));
  EXPECT_THAT(RegisterStatus({.model_name = "a", .hf_path = "org/gated"}),
              HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(RegisterStatus({.model_name = "a", .hf_path = "org/private"}),
              HasReasonOf(Reason::kHubRepoNotFound));
  EXPECT_EQ(RowCount(), "0\n");
}

TEST_F(RegistryTest, ATakenNameIsRefused) {
  AddRepo("org/m");
  Register("m", "org/m");

  EXPECT_THAT(RegisterStatus({.model_name = "m", .hf_path = "org/m"}),
              HasReasonOf(Reason::kModelAlreadyExists));
}

TEST_F(RegistryTest, WithoutTheHubTheEstimateCounts) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503})");

  const auto with =
      registry().Register({.model_name = "with", .hf_path = "org/m", .estimated_size_mb = 3}, {});
  const auto without = registry().Register({.model_name = "without", .hf_path = "org/m"}, {});

  ASSERT_THAT(with, IsOk());
  EXPECT_EQ(with->space.required_bytes, 3'000'000);
  EXPECT_EQ(with->view.model.estimated_size_bytes, 3'000'000);
  ASSERT_THAT(without, IsOk());
  EXPECT_TRUE(without->space.warning);
}

TEST_F(RegistryTest, AHubThatDoesNotAnswerIsWaitedForOnlyThatLong) {
  Stop();
  DaemonOptions options = Options();
  options.with_loader = false;
  options.hub_patience = std::chrono::milliseconds(300);
  Start(options);
  AddRepo("org/m");
  hub_.AddFault(R"({"kind":"stall","bytes":-1})");

  const auto begin = Clock::Real().Steady();
  const absl::Status status =
      RegisterStatus({.model_name = "m", .hf_path = "org/m", .estimated_size_mb = 1});

  EXPECT_THAT(status, IsOk());
  EXPECT_LT(Clock::Real().Steady() - begin, std::chrono::seconds(20));
}

TEST_F(RegistryTest, TooLittleSpaceIsRefusedWithBothFiguresAndWritesNothing) {
  hub_.AddFault(R"({"kind":"status","on":"api","status":503})");

  const absl::Status status = RegisterStatus(
      {.model_name = "m", .hf_path = "org/m", .estimated_size_mb = 1'000'000'000'000});

  EXPECT_THAT(status, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_THAT(DetailsOf(status).metadata,
              testing::Contains(testing::Pair("required_bytes", "1000000000000000000")));
  EXPECT_TRUE(DetailsOf(status).metadata.contains("free_bytes"));
  EXPECT_EQ(RowCount(), "0\n");
}

TEST_F(RegistryTest, WhatOthersHaveReservedIsNotFree) {
  const auto before = registry().CheckSpace({.estimated_size_mb = 1}, {});
  ASSERT_THAT(before, IsOk());
  const auto filesystem = FilesystemOf(cache());
  ASSERT_THAT(filesystem, IsOk());
  ASSERT_THAT(
      daemon().tables.reservations.Reserve({.operation = "other",
                                            .node_id = kNodeId,
                                            .filesystem = filesystem->id,
                                            .where = cache(),
                                            .bytes = before->free_bytes / 2,
                                            .free_bytes = [&] { return filesystem->free_bytes; }}),
      IsOk());

  const auto after = registry().CheckSpace({.estimated_size_mb = 1}, {});

  ASSERT_THAT(after, IsOk());
  EXPECT_LT(after->free_bytes, before->free_bytes * 3 / 4);
}

TEST_F(RegistryTest, AMissingModelIsNotFound) {
  EXPECT_THAT(registry().Get("none"), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(registry().Get(""), NamesField("model_name"));
  EXPECT_THAT(registry().Delete("none", true), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(registry().Update({.model_name = "none", .mask = {"revision"}}),
              HasReasonOf(Reason::kModelNotFound));
}

TEST_F(RegistryTest, PagesHoldEveryModelOnceInOrder) {
  AddRepo("org/m");
  for (const char* name : {"c", "a", "e", "b", "d"}) Register(name, "org/m");

  std::vector<std::string> names;
  std::string token;
  do {
    const auto page = registry().List(2, token, ModelState::kUnspecified);
    ASSERT_THAT(page, IsOk());
    for (const ModelView& view : page->models) names.push_back(view.model.model_name);
    token = page->next_page_token;
  } while (!token.empty());

  EXPECT_THAT(names, ElementsAre("a", "b", "c", "d", "e"));
}

TEST_F(RegistryTest, APageTokenIsGoodForItsFilterOnly) {
  AddRepo("org/m");
  for (const char* name : {"a", "b", "c"}) Register(name, "org/m");
  const auto page = registry().List(1, "", ModelState::kRegistered);
  ASSERT_THAT(page, IsOk());

  EXPECT_THAT(registry().List(1, page->next_page_token, ModelState::kUnspecified),
              NamesField("page_token"));
  EXPECT_THAT(registry().List(1, page->next_page_token, ModelState::kRegistered), IsOk());
  EXPECT_THAT(registry().List(-1, "", ModelState::kUnspecified), NamesField("page_size"));
}

TEST_F(RegistryTest, OnlyModelsOfTheStateAreListed) {
  AddRepo("org/m");
  Register("m", "org/m");

  EXPECT_THAT(registry().List(0, "", ModelState::kRegistered)->models, SizeIs(1));
  EXPECT_THAT(registry().List(0, "", ModelState::kReady)->models, IsEmpty());
}

TEST_F(RegistryTest, AnUpdateChangesTheFieldsOfItsMaskOnly) {
  AddRepo("org/m");
  Register("m", "org/m");

  const auto updated =
      registry().Update({.model_name = "m",
                         .mask = {"trust_remote_code", "allow_patterns", "estimated_size_bytes"},
                         .trust_remote_code = true,
                         .revision = "ignored",
                         .filter = {.allow_patterns = {"*.json"}},
                         .estimated_size_bytes = 77});

  ASSERT_THAT(updated, IsOk());
  EXPECT_TRUE(updated->model.trust_remote_code);
  EXPECT_THAT(updated->model.filter.allow_patterns, ElementsAre("*.json"));
  EXPECT_EQ(updated->model.revision, "main");
  EXPECT_EQ(updated->model.estimated_size_bytes, 77);
}

TEST_F(RegistryTest, ACredentialNamesTheTokenThatOpensTheRepository) {
  AddRepo("org/private");
  hub_.ChangeRepo("org/private", R"({"private":true,"tokens":["hf_team"]})");
  std::filesystem::create_directories(folder_.path() + "/credentials");
  std::ofstream(folder_.path() + "/credentials/team") << "hf_team\n";
  const RegisterRequest request = {.model_name = "m", .hf_path = "org/private"};
  RegisterRequest with_credential = request;
  with_credential.token_credential = "team";
  RegisterRequest with_missing = request;
  with_missing.token_credential = "nobody";

  EXPECT_THAT(RegisterStatus(request), HasReasonOf(Reason::kHubRepoNotFound));
  const absl::Status missing = RegisterStatus(with_missing);
  EXPECT_THAT(missing, HasReasonOf(Reason::kHubAccessDenied));
  EXPECT_THAT(std::string(missing.message()), HasSubstr("\"nobody\" is not in"));
  EXPECT_THAT(RegisterStatus(with_credential), IsOk());
  const auto space =
      registry().CheckSpace({.hf_path = "org/private", .token_credential = "team"}, {});
  ASSERT_THAT(space, IsOk());
  EXPECT_GT(space->required_bytes, 0);

  EXPECT_EQ(RunSql(url_, "SELECT token_credential FROM modelregistry"), "team\n");
  EXPECT_EQ(RunSql(url_, "SELECT count(*) FROM modelregistry m WHERE m::text LIKE '%hf_team%'"),
            "0\n");
  const auto view = registry().Get("m");
  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->model.token_credential, "team");
}

TEST_F(RegistryTest, AnUpdateChangesTheCredential) {
  AddRepo("org/m");
  Register("m", "org/m");

  const auto updated = registry().Update(
      {.model_name = "m", .mask = {"token_credential"}, .token_credential = "team"});

  ASSERT_THAT(updated, IsOk());
  EXPECT_EQ(updated->model.token_credential, "team");
  EXPECT_THAT(
      registry().Update(
          {.model_name = "m", .mask = {"token_credential"}, .token_credential = "../token"}),
      NamesField("token_credential"));
}

TEST_F(RegistryTest, AnotherRevisionForgetsTheCommit) {
  AddRepo("org/m");
  Register("m", "org/m");

  const auto updated =
      registry().Update({.model_name = "m", .mask = {"revision"}, .revision = "v2"});

  ASSERT_THAT(updated, IsOk());
  EXPECT_EQ(updated->model.revision, "v2");
  EXPECT_EQ(updated->model.commit, "");
}

TEST_F(RegistryTest, UpdatesOfOtherFieldsAreRefused) {
  AddRepo("org/m");
  Register("m", "org/m");

  for (const std::string field : {"model_name", "id", "size_bytes", ""}) {
    EXPECT_THAT(registry().Update({.model_name = "m", .mask = {field}}), NamesField("update_mask"));
  }
  EXPECT_THAT(registry().Update({.model_name = "m", .mask = {}}), NamesField("update_mask"));
  EXPECT_THAT(registry().Update({.model_name = "m", .mask = {"hf_path"}, .hf_path = "../x"}),
              NamesField("hf_path"));
}

TEST_F(RegistryTest, TheRepositoryMovesOnlyWhileThereIsNoCopyAndNoOperation) {
  AddRepo("org/m");
  const int64_t id = Register("m", "org/m").model.id;
  const ModelUpdate move = {.model_name = "m", .mask = {"hf_path"}, .hf_path = "org/other"};
  const auto operation = daemon().operations.Download({.model_name = "m"});
  ASSERT_THAT(operation, IsOk());

  EXPECT_THAT(registry().Update(move), HasReasonOf(Reason::kModelInUse));
  ASSERT_THAT(daemon().operations.Cancel(operation->name), IsOk());
  ASSERT_THAT(daemon().tables.copies.Put({.model_id = id,
                                          .node_id = kNodeId,
                                          .cache_path = cache(),
                                          .commit = std::string(40, 'a'),
                                          .snapshot_path = "/s",
                                          .complete = true}),
              IsOk());
  EXPECT_THAT(registry().Update(move), HasReasonOf(Reason::kModelInUse));
  ASSERT_THAT(daemon().tables.copies.Delete(id, kNodeId), IsOk());
  const auto moved = registry().Update(move);

  ASSERT_THAT(moved, IsOk());
  EXPECT_EQ(moved->model.hf_path, "org/other");
}

TEST_F(RegistryTest, AModelInAnOperationIsNotDeleted) {
  AddRepo("org/m");
  Register("m", "org/m");
  ASSERT_THAT(daemon().operations.Download({.model_name = "m"}), IsOk());

  EXPECT_THAT(registry().Delete("m", true), HasReasonOf(Reason::kModelInUse));
}

TEST_F(RegistryTest, ARowOfThePredecessorWithoutAPathLiesInThePrimaryCache) {
  RunSql(url_,
         "INSERT INTO modelregistry (model_name, hf_path, trust_remote_code, cache_location)"
         " VALUES ('old', 'org/m', false, 'primary')");

  const auto view = registry().Get("old");

  ASSERT_THAT(view, IsOk());
  EXPECT_EQ(view->model.cache_path, cache());
}

TEST_F(RegistryTest, CachesAreTheConfiguredOnesAndThoseOfModels) {
  AddRepo("org/m");
  const std::string custom = folder_.path() + "/custom/big";
  ASSERT_THAT(RegisterStatus({.model_name = "c",
                              .hf_path = "org/m",
                              .cache_location = "custom",
                              .cache_path = custom}),
              IsOk());

  const auto caches = registry().ListCaches();

  ASSERT_THAT(caches, IsOk());
  std::vector<std::string> found;
  for (const NamedCache& cache : *caches) {
    found.push_back(cache.name + " " + cache.summary.cache_path);
    EXPECT_GT(cache.summary.filesystem.total_bytes, 0);
  }
  EXPECT_THAT(found, ElementsAre("primary " + cache(), "secondary " + folder_.path() + "/second",
                                 "custom " + custom));
}

TEST_F(RegistryTest, AWatchTellsWhatIsThereAndThenEachChange) {
  AddRepo("org/m");
  Register("a", "org/m");
  ModelWatch watch(registry(), "");
  const auto types = [&] {
    std::vector<std::string> seen;
    const auto changes = watch.Poll();
    EXPECT_THAT(changes, IsOk());
    for (const ModelChange& change : *changes) {
      seen.push_back(std::to_string(static_cast<int>(change.type)) + change.view.model.model_name);
    }
    return seen;
  };

  EXPECT_THAT(types(), ElementsAre("1a"));
  EXPECT_THAT(types(), IsEmpty());
  Register("b", "org/m");
  EXPECT_THAT(types(), ElementsAre("1b"));
  ASSERT_THAT(registry().Update(
                  {.model_name = "a", .mask = {"trust_remote_code"}, .trust_remote_code = true}),
              IsOk());
  EXPECT_THAT(types(), ElementsAre("2a"));
  ASSERT_THAT(registry().Delete("a", false), IsOk());
  EXPECT_THAT(types(), ElementsAre("3a"));
}

TEST_F(RegistryTest, AWatchOfOneNameWaitsForItToCome) {
  AddRepo("org/m");
  ModelWatch watch(registry(), "m");

  EXPECT_THAT(*watch.Poll(), IsEmpty());
  Register("other", "org/m");
  EXPECT_THAT(*watch.Poll(), IsEmpty());
  Register("m", "org/m");

  EXPECT_THAT(*watch.Poll(), SizeIs(1));
}

}  // namespace
}  // namespace modeld
