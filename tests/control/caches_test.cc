#include "server/control/caches.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/cache/tree_size.h"
#include "tests/control/control_fixture.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

constexpr char kRepo[] = "org/m";

class CachesTest : public ControlTest {
 protected:
  void SetUp() override { Start(); }
  Caches& caches() { return daemon().caches; }
  RepoCache repo() const { return {cache(), kRepo}; }
  // A model with its files here.
  Model Downloaded(const std::string& name) {
    Register(name, kRepo);
    EXPECT_EQ(Finished(daemon().operations.Download({.model_name = name})).state,
              OperationState::kSucceeded);
    return daemon().registry.Get(name)->model;
  }
  // As if another program had brought the files: they are here, and no row knows them.
  Model Foreign() {
    const Model model = Downloaded("teacher");
    EXPECT_THAT(daemon().registry.Delete("teacher", /*delete_files=*/false), IsOk());
    hub_.ClearRequests();
    return model;
  }
  std::string SnapshotFile(const Model& model, const std::string& path) {
    return model.snapshot_path + "/" + path;
  }
  // The blob that a file of the snapshot links.
  std::string BlobPathOf(const Model& model, const std::string& path) {
    return fs::canonical(SnapshotFile(model, path)).string();
  }
};

class AdoptTest : public CachesTest {
 protected:
  void SetUp() override {
    AddRepo(kRepo);
    CachesTest::SetUp();
  }
};

TEST_F(AdoptTest, TakesOverWhatIsThereWithoutARequest) {
  const Model there = Foreign();

  const auto adopted = caches().Adopt({.model_name = "m", .hf_path = kRepo}, {});

  ASSERT_THAT(adopted, IsOk());
  EXPECT_EQ(adopted->state, ModelState::kDownloaded);
  EXPECT_EQ(adopted->model.commit, there.commit);
  EXPECT_EQ(adopted->model.snapshot_path, there.snapshot_path);
  EXPECT_EQ(adopted->model.size_bytes, there.size_bytes);
  EXPECT_THAT(adopted->model.inspection_json, HasSubstr("llama"));
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

TEST_F(AdoptTest, AnAdoptedModelLoadsWithoutTheHub) {
  const Model there = Foreign();
  fs::remove(repo().repo_path() + "/trees/" + there.commit + ".json");
  hub_.AddFault(R"({"kind":"status","on":"api","status":503,"times":100})");
  ASSERT_THAT(caches().Adopt({.model_name = "m", .hf_path = kRepo}, {}), IsOk());
  hub_.ClearRequests();

  const Operation load = Finished(daemon().operations.Load({.model_name = "m"}));

  EXPECT_EQ(load.state, OperationState::kSucceeded) << load.error;
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

TEST_F(AdoptTest, AMissingFileLeavesItRegisteredAndOnlyThatIsFetchedLater) {
  const Model there = Foreign();
  fs::remove(BlobPathOf(there, "config.json"));
  fs::remove(SnapshotFile(there, "config.json"));

  const auto adopted = caches().Adopt({.model_name = "m", .hf_path = kRepo}, {});

  ASSERT_THAT(adopted, IsOk());
  EXPECT_EQ(adopted->state, ModelState::kRegistered);
  EXPECT_EQ(Finished(daemon().operations.Download({.model_name = "m"})).state,
            OperationState::kSucceeded);
  EXPECT_EQ(StateOf("m"), ModelState::kDownloaded);
  const std::vector<FakeHubRequest> requests = hub_.Requests();
  EXPECT_TRUE(std::ranges::none_of(
      requests, [](const FakeHubRequest& request) { return request.on == "cdn"; }));
}

TEST_F(AdoptTest, PatternsSayWhatIsWanted) {
  const Model there = Foreign();
  fs::remove(BlobPathOf(there, "config.json"));
  fs::remove(SnapshotFile(there, "config.json"));

  const auto adopted = caches().Adopt(
      {.model_name = "m", .hf_path = kRepo, .filter = {.allow_patterns = {"*.safetensors"}}}, {});

  ASSERT_THAT(adopted, IsOk());
  EXPECT_EQ(adopted->state, ModelState::kDownloaded);
}

TEST_F(AdoptTest, WithoutARefTheOnlySnapshotIsMeant) {
  const Model there = Foreign();
  fs::remove(repo().repo_path() + "/refs/main");

  const auto adopted = caches().Adopt({.model_name = "m", .hf_path = kRepo}, {});

  ASSERT_THAT(adopted, IsOk());
  EXPECT_EQ(adopted->model.revision, there.commit);
}

TEST_F(AdoptTest, WhatTheCacheDoesNotHaveIsNamed) {
  const Model there = Foreign();

  EXPECT_THAT(caches().Adopt({.model_name = "m", .hf_path = "org/other"}, {}),
              NamesField("hf_path"));
  EXPECT_THAT(caches().Adopt({.model_name = "m", .hf_path = kRepo, .revision = "v2"}, {}),
              NamesField("revision"));
  EXPECT_THAT(caches().Adopt({.model_name = "/", .hf_path = kRepo}, {}), NamesField("model_name"));
  fs::remove(BlobPathOf(there, "config.json"));
  EXPECT_THAT(caches().Adopt({.model_name = "m", .hf_path = kRepo}, {}),
              HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(daemon().registry.Get("m"), HasReasonOf(Reason::kModelNotFound));
}

TEST_F(AdoptTest, ATakenNameIsRefused) {
  Foreign();
  ASSERT_THAT(caches().Adopt({.model_name = "m", .hf_path = kRepo}, {}), IsOk());

  EXPECT_THAT(caches().Adopt({.model_name = "m", .hf_path = kRepo}, {}),
              HasReasonOf(Reason::kModelAlreadyExists));
}

// Caches on filesystems without links have their files in the snapshots.
TEST_F(AdoptTest, ASnapshotWithoutLinksIsReadAndLoaded) {
  const Model there = Foreign();
  for (const char* path : {"config.json", "model.safetensors"}) {
    const std::string blob = BlobPathOf(there, path);
    fs::remove(SnapshotFile(there, path));
    fs::rename(blob, SnapshotFile(there, path));
  }

  const auto adopted = caches().Adopt({.model_name = "m", .hf_path = kRepo}, {});
  ASSERT_THAT(adopted, IsOk());
  EXPECT_EQ(adopted->state, ModelState::kDownloaded);
  EXPECT_EQ(adopted->model.size_bytes, there.size_bytes);
  const Operation load = Finished(daemon().operations.Load({.model_name = "m"}));

  EXPECT_EQ(load.state, OperationState::kSucceeded) << load.error;
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

class VerifyTest : public CachesTest {
 protected:
  void SetUp() override {
    AddRepo(kRepo);
    CachesTest::SetUp();
    model_ = Downloaded("m");
    hub_.ClearRequests();
  }
  absl::Status Verify(const VerifyRequest& request) {
    results_.clear();
    events_.clear();
    return caches().Verify(request,
                           [&](const VerifyEvent& event) {
                             events_.push_back(event);
                             if (!event.path.empty()) results_[event.path].push_back(event.result);
                           },
                           {});
  }
  // Same length, other bytes, behind the link.
  void Corrupt(const std::string& path) {
    const std::string blob = BlobPathOf(model_, path);
    std::string bytes = *ReadFile(blob);
    bytes[bytes.size() / 2] ^= 1;
    ASSERT_THAT(WriteFileAtomically(blob, bytes), IsOk());
  }
  const VerifyEvent& EventOf(const std::string& path, VerifyResult result) {
    const auto found = std::ranges::find_if(events_, [&](const VerifyEvent& event) {
      return event.path == path && event.result == result;
    });
    EXPECT_NE(found, events_.end()) << path;
    static const VerifyEvent kNone;
    return found == events_.end() ? kNone : *found;
  }

  Model model_;
  std::vector<VerifyEvent> events_;
  std::map<std::string, std::vector<VerifyResult>> results_;
};

using Results = std::map<std::string, std::vector<VerifyResult>>;
using enum VerifyResult;

TEST_F(VerifyTest, EveryFileOfAGoodCopyIsOk) {
  ASSERT_THAT(Verify({.model_name = "m"}), IsOk());

  EXPECT_EQ(results_, (Results{{"config.json", {kOk}}, {"model.safetensors", {kOk}}}));
  EXPECT_EQ(events_.back().bytes_done, events_.back().bytes_total);
  EXPECT_EQ(events_.back().bytes_done, model_.size_bytes);
  EXPECT_EQ(events_.back().files_done, 2);
  EXPECT_EQ(events_.front().commit, model_.commit);
  EXPECT_THAT(hub_.Requests(), IsEmpty());
}

TEST_F(VerifyTest, EachKindOfDamageIsTold) {
  hub_.AddFile("org/big", "config.json", R"({"model_type":"llama"})");
  Corrupt("model.safetensors");
  fs::remove(SnapshotFile(model_, "config.json"));
  ASSERT_THAT(WriteFileAtomically(SnapshotFile(model_, "notes.txt"), "mine"), IsOk());

  ASSERT_THAT(Verify({.model_name = "m"}), IsOk());

  EXPECT_EQ(results_, (Results{{"config.json", {kMissing}},
                               {"model.safetensors", {kCorrupt}},
                               {"notes.txt", {kExtra}}}));
  const VerifyEvent& corrupt = EventOf("model.safetensors", kCorrupt);
  EXPECT_EQ(corrupt.expected_digest.size(), 64U);
  EXPECT_EQ(corrupt.actual_digest.size(), 64U);
  EXPECT_NE(corrupt.expected_digest, corrupt.actual_digest);
  EXPECT_EQ(EventOf("config.json", kMissing).actual_digest, "");
}

TEST_F(VerifyTest, RepairFetchesTheBrokenFileAndNoOther) {
  Corrupt("model.safetensors");
  const std::string config = BlobPathOf(model_, "config.json");
  const auto config_time = fs::last_write_time(config);

  ASSERT_THAT(Verify({.model_name = "m", .repair = true}), IsOk());

  EXPECT_EQ(results_,
            (Results{{"config.json", {kOk}}, {"model.safetensors", {kCorrupt, kRepaired}}}));
  EXPECT_EQ(fs::last_write_time(config), config_time);
  ASSERT_THAT(Verify({.model_name = "m"}), IsOk());
  EXPECT_EQ(results_, (Results{{"config.json", {kOk}}, {"model.safetensors", {kOk}}}));
  for (const FakeHubRequest& request : hub_.Requests()) {
    EXPECT_THAT(request.path, testing::Not(HasSubstr("config.json")));
  }
}

TEST_F(VerifyTest, RepairBringsBackAMissingFileFromItsBlob) {
  fs::remove(SnapshotFile(model_, "model.safetensors"));

  ASSERT_THAT(Verify({.model_name = "m", .repair = true}), IsOk());

  EXPECT_EQ(results_["model.safetensors"], (std::vector{kMissing, kRepaired}));
  EXPECT_TRUE(fs::exists(SnapshotFile(model_, "model.safetensors")));
  EXPECT_TRUE(std::ranges::none_of(hub_.Requests(), [](const FakeHubRequest& request) {
    return request.method == "GET" && request.bytes > 50'000;
  }));
}

// What cannot be had again must not be taken away.
TEST_F(VerifyTest, RepairWithoutTheHubLeavesTheFileAsItIs) {
  Corrupt("model.safetensors");
  hub_.AddFault(R"({"kind":"status","on":"resolve","status":503,"times":100})");

  EXPECT_THAT(Verify({.model_name = "m", .repair = true}), HasReasonOf(Reason::kHubUnavailable));

  EXPECT_TRUE(fs::exists(SnapshotFile(model_, "model.safetensors")));
}

TEST_F(VerifyTest, RepairNeverWritesThroughALinkIntoTheSharedStore) {
  const std::string blob = BlobPathOf(model_, "model.safetensors");
  const std::string hash(64, 'f');
  const std::string payload = cache() + "/hub/blobs/ff/" + hash;
  ASSERT_THAT(MakeDirectories(cache() + "/hub/blobs/ff"), IsOk());
  fs::rename(blob, payload);
  ASSERT_THAT(WriteFileAtomically(payload, "wrong for all who share it", 0444), IsOk());
  fs::create_symlink("../../blobs/ff/" + hash, blob);

  ASSERT_THAT(Verify({.model_name = "m", .repair = true}), IsOk());

  EXPECT_EQ(results_["model.safetensors"], (std::vector{kCorrupt, kRepaired}));
  EXPECT_EQ(*ReadFile(payload), "wrong for all who share it");
  EXPECT_FALSE(fs::is_symlink(blob));
  EXPECT_EQ(fs::file_size(blob), 100'000U);
}

TEST_F(VerifyTest, WithoutAnyListingTheNameOfTheBlobIsTheDigest) {
  fs::remove(repo().repo_path() + "/trees/" + model_.commit + ".json");
  hub_.AddFault(R"({"kind":"status","on":"api","status":503,"times":100})");
  Corrupt("model.safetensors");

  ASSERT_THAT(Verify({.model_name = "m"}), IsOk());
  EXPECT_EQ(results_, (Results{{"config.json", {kOk}}, {"model.safetensors", {kCorrupt}}}));

  EXPECT_THAT(Verify({.model_name = "m", .repair = true}), HasReasonOf(Reason::kHubUnavailable));
}

TEST_F(VerifyTest, ARevisionThatIsNotThereIsNamed) {
  EXPECT_THAT(Verify({.model_name = "m", .revision = std::string(40, '1')}),
              NamesField("revision"));
  EXPECT_THAT(Verify({.model_name = "m", .revision = "../x"}), NamesField("revision"));
  EXPECT_THAT(Verify({.model_name = "none"}), HasReasonOf(Reason::kModelNotFound));
  EXPECT_THAT(Verify({.model_name = "m", .revision = "main"}), IsOk());
}

TEST_F(VerifyTest, AStopEndsItSoon) {
  std::stop_source stop;

  const absl::Status status = caches().Verify(
      {.model_name = "m"}, [&](const VerifyEvent&) { stop.request_stop(); }, stop.get_token());

  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(VerifyTest, OnlySoManyRunAtATime) {
  absl::Status third;
  const OnVerified nothing = [](const VerifyEvent&) {};
  bool second_began = false;
  const OnVerified inner = [&](const VerifyEvent&) {
    if (!std::exchange(second_began, true))
      third = caches().Verify({.model_name = "m"}, nothing, {});
  };
  bool first_began = false;

  const absl::Status first =
      caches().Verify({.model_name = "m"},
                      [&](const VerifyEvent&) {
                        if (std::exchange(first_began, true)) return;
                        EXPECT_THAT(caches().Verify({.model_name = "m"}, inner, {}), IsOk());
                      },
                      {});

  EXPECT_THAT(first, IsOk());
  EXPECT_THAT(third, HasReasonOf(Reason::kQueueFull));
}

// Two revisions of one repository, both downloaded; the row stands at the second.
class TwoRevisionsTest : public CachesTest {
 protected:
  void SetUp() override {
    CachesTest::SetUp();
    for (const char* revision : {"v1", "v2"}) {
      hub_.AddRevisionFile(kRepo, revision, "config.json", R"({"model_type":"llama"})");
      hub_.AddRevisionFile(kRepo, revision, "model.safetensors",
                           TestBytes(50'000, revision[1] - '0'));
      hub_.ChangeRepo(kRepo, std::string(R"({"branches":{"main":")") + revision + "\"}}");
      if (revision[1] == '1') {
        first_ = Downloaded("m");
      } else {
        EXPECT_EQ(
            Finished(daemon().operations.Download({.model_name = "m", .revision = "main"})).state,
            OperationState::kSucceeded);
        second_ = daemon().registry.Get("m")->model;
      }
    }
    ASSERT_NE(first_.commit, second_.commit);
  }
  int64_t Allocated() { return AllocatedBytes(cache() + "/hub"); }

  Model first_;
  Model second_;
};

TEST_F(TwoRevisionsTest, DeletingOneKeepsWhatTheOtherNeedsAndSaysWhatItFreed) {
  const std::string weights = BlobPathOf(first_, "model.safetensors");
  const auto promised = caches().DeleteRevision("m", first_.commit, /*dry_run=*/true);
  ASSERT_THAT(promised, IsOk());
  EXPECT_TRUE(fs::exists(weights));
  const int64_t before = Allocated();

  const auto deleted = caches().DeleteRevision("m", first_.commit, /*dry_run=*/false);

  ASSERT_THAT(deleted, IsOk());
  EXPECT_EQ(deleted->removal.freed_bytes(), before - Allocated());
  EXPECT_EQ(promised->removal.freed_bytes(), deleted->removal.freed_bytes());
  EXPECT_FALSE(fs::exists(weights));
  EXPECT_TRUE(fs::exists(SnapshotFile(second_, "config.json")));
  EXPECT_EQ(StateOf("m"), ModelState::kDownloaded);
  EXPECT_THAT(caches().DeleteRevision("m", first_.commit, false), NamesField("revision"));
}

TEST_F(TwoRevisionsTest, DeletingTheRowsOwnRevisionLeavesTheRowRegistered) {
  ASSERT_THAT(caches().DeleteRevision("m", "main", false), IsOk());

  EXPECT_EQ(StateOf("m"), ModelState::kRegistered);
  EXPECT_EQ(daemon().registry.Get("m")->model.snapshot_path, "");
  EXPECT_TRUE(fs::exists(SnapshotFile(first_, "config.json")));
}

TEST_F(TwoRevisionsTest, ARevisionThatAnotherRowHasIsInUse) {
  ASSERT_THAT(
      caches().Adopt({.model_name = "other", .hf_path = kRepo, .revision = first_.commit}, {}),
      IsOk());

  EXPECT_THAT(caches().DeleteRevision("m", first_.commit, false), HasReasonOf(Reason::kModelInUse));
  EXPECT_TRUE(fs::exists(SnapshotFile(first_, "config.json")));
}

TEST_F(TwoRevisionsTest, ALoadedRevisionIsInUse) {
  ASSERT_EQ(Finished(daemon().operations.Load({.model_name = "m"})).state,
            OperationState::kSucceeded);

  EXPECT_THAT(caches().DeleteRevision("m", second_.commit, false),
              HasReasonOf(Reason::kModelInUse));
}

TEST_F(TwoRevisionsTest, DeletingTheModelGivesBackEveryByte) {
  const int64_t before = Allocated();

  const auto freed = daemon().registry.Delete("m", /*delete_files=*/true);

  ASSERT_THAT(freed, IsOk());
  EXPECT_EQ(*freed, before - Allocated());
  EXPECT_FALSE(fs::exists(repo().repo_path()));
}

TEST_F(TwoRevisionsTest, PruneKeepsTheDetachedRevisionsOfRows) {
  const PruneRequest request{.detached_revisions = true, .older_than = std::chrono::seconds(0)};
  ASSERT_THAT(caches().Prune(request), IsOk());
  EXPECT_TRUE(fs::exists(SnapshotFile(first_, "config.json")));
  ASSERT_THAT(daemon().registry.Delete("m", /*delete_files=*/false), IsOk());

  ASSERT_THAT(caches().Prune(request), IsOk());

  EXPECT_FALSE(fs::exists(first_.snapshot_path));
  EXPECT_TRUE(fs::exists(SnapshotFile(second_, "config.json")));
}

TEST_F(TwoRevisionsTest, ScanNamesTheModelAndItsRevisions) {
  const auto scanned = caches().Scan("", "");

  ASSERT_THAT(scanned, IsOk());
  ASSERT_THAT(*scanned, SizeIs(2));
  const ScannedCache& primary = scanned->front();
  EXPECT_EQ(primary.scan.cache_path, cache());
  ASSERT_THAT(primary.scan.repositories, SizeIs(1));
  EXPECT_THAT(primary.scan.repositories[0].revisions, SizeIs(2));
  EXPECT_EQ(primary.model_names.at(kRepo), "m");
  EXPECT_THAT(caches().Scan("/etc", ""), NamesField("cache_path"));
  EXPECT_THAT(caches().Prune({.cache_path = "/etc"}), NamesField("cache_path"));
  EXPECT_THAT(caches().Scan("", "a/b/c"), NamesField("hf_path"));
}

// A paused download goes on with its part files.
TEST_F(CachesTest, PruneKeepsThePartsOfAnOperationThatIsNotOver) {
  AddRepo(kRepo, 8'000'000);
  hub_.AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":200000})");
  Register("m", kRepo);
  const auto operation = daemon().operations.Download({.model_name = "m"});
  ASSERT_THAT(operation, IsOk());
  const auto has_part = [&] {
    std::error_code error;
    for (fs::directory_iterator it(repo().blobs_path(), error), end; !error && it != end; ++it) {
      if (it->path().string().ends_with(".modeld.part")) return true;
    }
    return false;
  };
  ASSERT_TRUE(Eventually(has_part));
  ASSERT_THAT(daemon().operations.Pause(operation->name), IsOk());
  ASSERT_TRUE(Eventually(
      [&] { return daemon().operations.Get(operation->name)->state == OperationState::kPaused; }));

  ASSERT_THAT(caches().Prune({.older_than = std::chrono::seconds(0)}), IsOk());
  EXPECT_TRUE(has_part());
  ASSERT_THAT(daemon().operations.Cancel(operation->name), IsOk());

  ASSERT_THAT(caches().Prune({.older_than = std::chrono::seconds(0)}), IsOk());
  EXPECT_FALSE(has_part());
}

}  // namespace
}  // namespace modeld
