#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/cache/tree_size.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

const std::string kMain(40, '1');
const std::string kDetached(40, '2');
const std::string kOfMain(64, 'a');
const std::string kOfDetached(64, 'b');
const std::string kOrphan(64, 'c');
const std::string kHalf(64, 'd');
const PruneOptions kAtOnce{.older_than = std::chrono::seconds(0)};

// main, a snapshot that no ref names, a blob that no snapshot links, and a part with its journal.
class PruneTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(PrepareCache(dir_.path()), IsOk());
    for (const auto& [commit, blob] : {std::pair(kMain, kOfMain), {kDetached, kOfDetached}}) {
      ASSERT_THAT(repo_.Prepare(commit), IsOk());
      AddBlob(blob);
      ASSERT_THAT(repo_.Link(commit, {.path = "sub/f", .size_bytes = 9000, .blob = blob}), IsOk());
    }
    ASSERT_THAT(repo_.WriteRef("main", kMain), IsOk());
    AddBlob(kOrphan);
    ASSERT_THAT(WriteFileAtomically(repo_.PartPath(kHalf), "half"), IsOk());
    ASSERT_THAT(WriteFileAtomically(repo_.JournalPath(kHalf), "{}"), IsOk());
  }
  void AddBlob(const std::string& blob) {
    ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(blob), std::string(9000, 'x')), IsOk());
  }
  static std::vector<std::string> PathsOf(const Removal& removal) {
    std::vector<std::string> paths;
    for (const RemovedEntry& entry : removal.entries) paths.push_back(entry.path);
    return paths;
  }
  bool HasBlob(const std::string& blob) { return fs::exists(repo_.BlobPath(blob)); }
  int64_t Allocated() { return AllocatedBytes(dir_.path() + "/hub"); }

  TempDir dir_;
  RepoCache repo_{dir_.path(), "acme/model"};
};

TEST_F(PruneTest, TakesOnlyWhatNobodyNeedsAndSaysWhatItFreed) {
  MakeDirectories(dir_.path() + "/hub/.locks/models--acme--model").IgnoreError();
  const int64_t before = Allocated();

  const auto removal = repo_.Prune(kAtOnce);

  ASSERT_THAT(removal, IsOk());
  EXPECT_THAT(PathsOf(*removal),
              UnorderedElementsAre(repo_.BlobPath(kOrphan), repo_.PartPath(kHalf),
                                   repo_.JournalPath(kHalf)));
  EXPECT_EQ(removal->freed_bytes(), before - Allocated());
  EXPECT_TRUE(HasBlob(kOfMain));
  EXPECT_TRUE(HasBlob(kOfDetached));
}

TEST_F(PruneTest, ADryRunSaysTheSameAndChangesNothing) {
  const int64_t before = Allocated();
  PruneOptions options = kAtOnce;
  options.detached_revisions = true;
  options.dry_run = true;
  const auto promised = repo_.Prune(options);
  ASSERT_THAT(promised, IsOk());
  EXPECT_EQ(Allocated(), before);
  options.dry_run = false;

  const auto removal = repo_.Prune(options);

  ASSERT_THAT(removal, IsOk());
  EXPECT_EQ(PathsOf(*promised), PathsOf(*removal));
  EXPECT_EQ(promised->freed_bytes(), removal->freed_bytes());
}

TEST_F(PruneTest, DetachedRevisionsGoOnlyWhenAsked) {
  PruneOptions options = kAtOnce;
  options.detached_revisions = true;
  options.keep_revisions = {kDetached};
  ASSERT_THAT(repo_.Prune(options), IsOk());
  EXPECT_TRUE(fs::exists(repo_.SnapshotPath(kDetached)));
  options.keep_revisions.clear();

  ASSERT_THAT(repo_.Prune(options), IsOk());

  EXPECT_FALSE(fs::exists(repo_.SnapshotPath(kDetached)));
  EXPECT_FALSE(HasBlob(kOfDetached));
  EXPECT_TRUE(fs::exists(repo_.SnapshotPath(kMain) + "/sub/f"));
}

// Between its rename and its link a blob of another program looks as if nobody needed it.
TEST_F(PruneTest, WhatIsYoungerThanAskedStays) {
  const auto removal = repo_.Prune({});

  ASSERT_THAT(removal, IsOk());
  EXPECT_THAT(removal->entries, IsEmpty());
  EXPECT_TRUE(HasBlob(kOrphan));
}

TEST_F(PruneTest, WhatIsBeingWrittenStays) {
  const auto part = FileLock::TryAcquire(repo_.LockPath(kHalf));
  const auto blob = FileLock::TryAcquire(repo_.LockPath(kOrphan));
  ASSERT_THAT(part, IsOk());
  ASSERT_THAT(blob, IsOk());
  const std::string theirs = repo_.BlobPath(kHalf) + ".0123abcd.incomplete";
  const std::string old_python = repo_.BlobPath(kHalf) + ".incomplete";
  ASSERT_THAT(WriteFileAtomically(theirs, "half"), IsOk());
  ASSERT_THAT(WriteFileAtomically(old_python, "half"), IsOk());

  const auto removal = repo_.Prune(kAtOnce);

  ASSERT_THAT(removal, IsOk());
  EXPECT_THAT(removal->entries, IsEmpty());
  EXPECT_TRUE(fs::exists(theirs));
  EXPECT_TRUE(fs::exists(old_python));
}

TEST_F(PruneTest, PartsThatAnOperationWillGoOnWithStay) {
  PruneOptions options = kAtOnce;
  options.keep_parts = true;

  ASSERT_THAT(repo_.Prune(options), IsOk());

  EXPECT_TRUE(fs::exists(repo_.PartPath(kHalf)));
  EXPECT_FALSE(HasBlob(kOrphan));
}

TEST_F(PruneTest, ForeignEntriesAreLeftAlone) {
  const std::string foreign = repo_.blobs_path() + "/notes.txt";
  const std::string llama_cpp = repo_.BlobPath(kHalf) + ".downloadInProgress";
  ASSERT_THAT(WriteFileAtomically(foreign, "mine"), IsOk());
  ASSERT_THAT(WriteFileAtomically(llama_cpp, "mine"), IsOk());

  ASSERT_THAT(repo_.Prune(kAtOnce), IsOk());

  EXPECT_TRUE(fs::exists(foreign));
  EXPECT_TRUE(fs::exists(llama_cpp));
}

TEST_F(PruneTest, NothingGoesWhenASnapshotCannotBeRead) {
  const fs::path snapshot = repo_.SnapshotPath(kDetached);
  fs::remove_all(snapshot);
  fs::create_directory_symlink(snapshot.filename(), snapshot);

  EXPECT_THAT(repo_.Prune(kAtOnce).status().message(), HasSubstr(snapshot.string()));

  EXPECT_TRUE(HasBlob(kOfDetached));
  EXPECT_TRUE(HasBlob(kOrphan));
}

TEST_F(PruneTest, AFileAmongTheSnapshotsIsNoRevision) {
  const std::string stray = repo_.repo_path() + "/snapshots/.DS_Store";
  ASSERT_THAT(WriteFileAtomically(stray, "x"), IsOk());

  ASSERT_THAT(repo_.Prune(kAtOnce), IsOk());

  EXPECT_TRUE(fs::exists(stray));
  EXPECT_TRUE(HasBlob(kOfMain));
  EXPECT_FALSE(HasBlob(kOrphan));
}

TEST_F(PruneTest, ABlobThatASnapshotHasAsAHardLinkOrThroughAChainIsNeeded) {
  const std::string chained(64, 'e');
  AddBlob(chained);
  fs::create_hard_link(repo_.BlobPath(kOrphan), repo_.SnapshotPath(kMain) + "/hard");
  fs::create_symlink("../../blobs/" + chained, repo_.SnapshotPath(kMain) + "/first");
  fs::create_symlink("first", repo_.SnapshotPath(kMain) + "/second");

  ASSERT_THAT(repo_.Prune(kAtOnce), IsOk());

  EXPECT_TRUE(HasBlob(kOrphan));
  EXPECT_TRUE(HasBlob(chained));
}

TEST_F(PruneTest, AHardLinkElsewhereKeepsItsBytes) {
  fs::create_hard_link(repo_.BlobPath(kOrphan), dir_.path() + "/kept");

  const auto removal = repo_.Prune(kAtOnce);

  ASSERT_THAT(removal, IsOk());
  const auto orphan =
      std::ranges::find(removal->entries, repo_.BlobPath(kOrphan), &RemovedEntry::path);
  ASSERT_NE(orphan, removal->entries.end());
  EXPECT_EQ(orphan->freed_bytes, 0);
  EXPECT_EQ(fs::file_size(dir_.path() + "/kept"), 9000U);
}

// Payloads of huggingface_hub's shared store are linked by blobs of several repositories.
TEST_F(PruneTest, ASharedPayloadOutlivesTheBlobThatLinksIt) {
  const std::string payload = dir_.path() + "/hub/blobs/ff/" + std::string(64, 'f');
  ASSERT_THAT(MakeDirectories(dir_.path() + "/hub/blobs/ff"), IsOk());
  ASSERT_THAT(WriteFileAtomically(payload, std::string(9000, 'p'), 0444), IsOk());
  fs::remove(repo_.BlobPath(kOrphan));
  fs::create_symlink("../../blobs/ff/" + std::string(64, 'f'), repo_.BlobPath(kOrphan));

  const auto removal = repo_.Prune(kAtOnce);

  ASSERT_THAT(removal, IsOk());
  EXPECT_FALSE(fs::is_symlink(repo_.BlobPath(kOrphan)));
  EXPECT_EQ(fs::file_size(payload), 9000U);
}

class WrongBlobTest : public PruneTest {
 protected:
  FileIdentity Found(const std::string& path) {
    struct stat info{};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return {info.st_dev, info.st_ino};
  }
};

TEST_F(WrongBlobTest, IsRemovedAndNothingElse) {
  const auto removed = repo_.RemoveWrongBlob(kOfMain, Found(repo_.BlobPath(kOfMain)));

  ASSERT_THAT(removed, IsOk());
  EXPECT_TRUE(*removed);
  EXPECT_FALSE(HasBlob(kOfMain));
  EXPECT_TRUE(HasBlob(kOfDetached));
}

TEST_F(WrongBlobTest, OneThatWasReplacedMeanwhileStays) {
  const FileIdentity found = Found(repo_.BlobPath(kOfMain));
  AddBlob(kOfMain);

  const auto removed = repo_.RemoveWrongBlob(kOfMain, found);

  ASSERT_THAT(removed, IsOk());
  EXPECT_FALSE(*removed);
  EXPECT_TRUE(HasBlob(kOfMain));
  EXPECT_TRUE(std::ranges::none_of(fs::directory_iterator(repo_.blobs_path()), [](const auto& e) {
    return e.path().filename().string().starts_with(".modeld-");
  }));
}

TEST_F(WrongBlobTest, IsLeftWhileSomebodyWritesIt) {
  const auto lock = FileLock::TryAcquire(repo_.LockPath(kOfMain));
  ASSERT_THAT(lock, IsOk());

  const auto removed = repo_.RemoveWrongBlob(kOfMain, Found(repo_.BlobPath(kOfMain)));

  EXPECT_TRUE(absl::IsUnavailable(removed.status())) << removed.status();
  EXPECT_TRUE(HasBlob(kOfMain));
}

// The payload may be what other repositories read, so only the link to it goes.
TEST_F(WrongBlobTest, ASharedPayloadIsNotTouched) {
  const std::string payload = dir_.path() + "/hub/blobs/ff/" + std::string(64, 'f');
  ASSERT_THAT(MakeDirectories(dir_.path() + "/hub/blobs/ff"), IsOk());
  ASSERT_THAT(WriteFileAtomically(payload, "wrong", 0444), IsOk());
  fs::remove(repo_.BlobPath(kOfMain));
  fs::create_symlink("../../blobs/ff/" + std::string(64, 'f'), repo_.BlobPath(kOfMain));

  ASSERT_THAT(repo_.RemoveWrongBlob(kOfMain, Found(payload)), IsOk());

  EXPECT_FALSE(fs::is_symlink(repo_.BlobPath(kOfMain)));
  EXPECT_EQ(*ReadFile(payload), "wrong");
}

}  // namespace
}  // namespace modeld
