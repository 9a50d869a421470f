#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/cache/tree_size.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const std::string kOld(40, '1');
const std::string kNew(40, '2');
const std::string kOnlyOld(64, 'a');
const std::string kShared(64, 'b');
const std::string kOnlyNew(40, 'c');

// Two revisions: one file of each alone, one of both.
class RepoDeletionTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(PrepareCache(dir_.path()), IsOk());
    for (const auto& [commit, own] : {std::pair(kOld, kOnlyOld), std::pair(kNew, kOnlyNew)}) {
      ASSERT_THAT(repo_.Prepare(commit), IsOk());
      AddFile(commit, "own", own);
      AddFile(commit, "sub/shared", kShared);
      ASSERT_THAT(repo_.WriteTree({.commit = commit}), IsOk());
    }
    ASSERT_THAT(repo_.WriteRef("main", kNew), IsOk());
    ASSERT_THAT(repo_.WriteRef("refs/pr/1", kOld), IsOk());
  }
  void AddFile(const std::string& commit, const std::string& path, const std::string& blob) {
    const RepoFile file{.path = path, .size_bytes = 9000, .blob = blob};
    ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(blob), std::string(9000, 'x')), IsOk());
    ASSERT_THAT(repo_.Link(commit, file), IsOk());
  }
  bool HasBlob(const std::string& blob) { return fs::exists(repo_.BlobPath(blob)); }
  int64_t Allocated() { return AllocatedBytes(dir_.path() + "/hub"); }

  TempDir dir_;
  RepoCache repo_{dir_.path(), "acme/model"};
};

TEST_F(RepoDeletionTest, TakesOneRevisionAndWhatOnlyItHad) {
  const int64_t before = Allocated();

  const absl::StatusOr<Removal> removal = repo_.DeleteRevision(kOld);

  ASSERT_THAT(removal, IsOk());
  EXPECT_EQ(removal->freed_bytes(), before - Allocated());
  EXPECT_GE(removal->freed_bytes(), 9000);
  EXPECT_FALSE(fs::exists(repo_.SnapshotPath(kOld)));
  EXPECT_FALSE(fs::exists(repo_.repo_path() + "/trees/" + kOld + ".json"));
  EXPECT_FALSE(fs::exists(repo_.repo_path() + "/refs/refs"));
  EXPECT_FALSE(HasBlob(kOnlyOld));
  EXPECT_TRUE(HasBlob(kShared));
  EXPECT_TRUE(HasBlob(kOnlyNew));
  EXPECT_EQ(*repo_.ReadRef("main"), kNew);
  EXPECT_TRUE(fs::exists(repo_.SnapshotPath(kNew) + "/sub/shared"));
}

TEST_F(RepoDeletionTest, TheLastRevisionTakesTheFoldersToo) {
  ASSERT_THAT(repo_.DeleteRevision(kOld), IsOk());
  const int64_t before = Allocated();

  const absl::StatusOr<Removal> removal = repo_.DeleteRevision(kNew);

  ASSERT_THAT(removal, IsOk());
  EXPECT_EQ(removal->freed_bytes(), before - Allocated());
  EXPECT_FALSE(fs::exists(repo_.repo_path()));
  EXPECT_FALSE(fs::exists(dir_.path() + "/hub/.locks/models--acme--model"));
}

TEST_F(RepoDeletionTest, PartFilesOfNoRevisionGoToo) {
  const std::string blob(64, 'd');
  ASSERT_THAT(WriteFileAtomically(repo_.PartPath(blob), "half"), IsOk());
  ASSERT_THAT(WriteFileAtomically(repo_.JournalPath(blob), "{}"), IsOk());

  ASSERT_THAT(repo_.DeleteRevision(kOld), IsOk());

  EXPECT_FALSE(fs::exists(repo_.PartPath(blob)));
  EXPECT_FALSE(fs::exists(repo_.JournalPath(blob)));
}

TEST_F(RepoDeletionTest, WhatOthersWriteNowStays) {
  const std::string locked(64, 'd');
  ASSERT_THAT(WriteFileAtomically(repo_.PartPath(locked), "half"), IsOk());
  const absl::StatusOr<FileLock> lock = FileLock::TryAcquire(repo_.LockPath(locked));
  ASSERT_THAT(lock, IsOk());
  const std::string theirs = repo_.BlobPath(kOnlyOld) + ".0123abcd.incomplete";
  ASSERT_THAT(WriteFileAtomically(theirs, "half"), IsOk());

  ASSERT_THAT(repo_.DeleteRevision(kOld), IsOk());
  ASSERT_THAT(repo_.DeleteRevision(kNew), IsOk());

  EXPECT_TRUE(fs::exists(repo_.PartPath(locked)));
  EXPECT_TRUE(fs::exists(theirs));
  EXPECT_FALSE(HasBlob(kShared));
}

TEST_F(RepoDeletionTest, ADryRunTellsWhatGoesThoughFilesHaveOtherNames) {
  fs::create_hard_link(repo_.BlobPath(kOnlyOld), dir_.path() + "/kept");
  // Two names in the same snapshot: its bytes come back with the second.
  fs::create_hard_link(repo_.BlobPath(kOnlyNew), repo_.SnapshotPath(kNew) + "/hard");
  for (const std::string& commit : {kOld, kNew}) {
    const int64_t before = Allocated();
    const absl::StatusOr<Removal> promised = repo_.DeleteRevision(commit, {.dry_run = true});
    ASSERT_THAT(promised, IsOk());
    ASSERT_EQ(Allocated(), before);

    const absl::StatusOr<Removal> removal = repo_.DeleteRevision(commit);

    ASSERT_THAT(removal, IsOk());
    EXPECT_EQ(promised->freed_bytes(), removal->freed_bytes()) << commit;
    // Outside of hub/ the first one's other name keeps its bytes.
    const int64_t kept = commit == kOld ? AllocatedBytes(dir_.path() + "/kept") : 0;
    EXPECT_EQ(removal->freed_bytes(), before - Allocated() - kept) << commit;
  }
  EXPECT_EQ(fs::file_size(dir_.path() + "/kept"), 9000U);
}

TEST_F(RepoDeletionTest, ASharedPayloadOutlivesTheRepository) {
  const std::string payload = dir_.path() + "/hub/blobs/ff/" + std::string(64, 'f');
  ASSERT_THAT(MakeDirectories(dir_.path() + "/hub/blobs/ff"), IsOk());
  ASSERT_THAT(WriteFileAtomically(payload, std::string(9000, 'p'), 0444), IsOk());
  fs::remove(repo_.BlobPath(kShared));
  fs::create_symlink("../../blobs/ff/" + std::string(64, 'f'), repo_.BlobPath(kShared));
  const int64_t before = Allocated();

  const absl::StatusOr<Removal> first = repo_.DeleteRevision(kOld);
  const absl::StatusOr<Removal> second = repo_.DeleteRevision(kNew);

  ASSERT_THAT(first, IsOk());
  ASSERT_THAT(second, IsOk());
  EXPECT_EQ(first->freed_bytes() + second->freed_bytes(), before - Allocated());
  EXPECT_FALSE(fs::exists(repo_.repo_path()));
  EXPECT_EQ(fs::file_size(payload), 9000U);
}

TEST_F(RepoDeletionTest, AllMeansAll) {
  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(kOnlyOld) + ".0123abcd.incomplete", "half"),
              IsOk());
  const int64_t before = Allocated();

  const absl::StatusOr<int64_t> freed = repo_.DeleteAll();

  ASSERT_THAT(freed, IsOk());
  EXPECT_EQ(*freed, before - Allocated());
  EXPECT_FALSE(fs::exists(repo_.repo_path()));
  EXPECT_TRUE(fs::exists(dir_.path() + "/hub/CACHEDIR.TAG"));
}

TEST_F(RepoDeletionTest, NeverFollowsALinkOutOfTheRepository) {
  TempDir elsewhere;
  ASSERT_THAT(WriteFileAtomically(elsewhere.path() + "/kept", "kept"), IsOk());
  fs::create_directory_symlink(elsewhere.path(), repo_.SnapshotPath(kOld) + "/escape");

  ASSERT_THAT(repo_.DeleteRevision(kOld), IsOk());
  ASSERT_THAT(repo_.DeleteAll(), IsOk());

  EXPECT_TRUE(fs::exists(elsewhere.path() + "/kept"));
}

TEST_F(RepoDeletionTest, OnlyACommitNamesARevision) {
  EXPECT_THAT(repo_.DeleteRevision("../../.."), HasReasonOf(Reason::kInvalidField));
  EXPECT_THAT(repo_.DeleteRevision(""), HasReasonOf(Reason::kInvalidField));
  EXPECT_TRUE(HasBlob(kShared));
}

TEST_F(RepoDeletionTest, NothingGoesWhenAnotherRevisionCannotBeRead) {
  const fs::path other = repo_.SnapshotPath(kNew);
  fs::remove_all(other);
  fs::create_directory_symlink(other.filename(), other);

  EXPECT_THAT(repo_.DeleteRevision(kOld).status().message(), HasSubstr(other.string()));

  EXPECT_TRUE(fs::exists(repo_.SnapshotPath(kOld)));
  EXPECT_TRUE(HasBlob(kOnlyOld));
  EXPECT_TRUE(HasBlob(kOnlyNew));
  EXPECT_EQ(*repo_.ReadRef("refs/pr/1"), kOld);
}

TEST_F(RepoDeletionTest, DeletingTwiceFreesNothingMore) {
  ASSERT_THAT(repo_.DeleteAll(), IsOk());

  EXPECT_EQ(*repo_.DeleteAll(), 0);
  EXPECT_EQ(repo_.DeleteRevision(kOld)->freed_bytes(), 0);
}

TEST_F(RepoDeletionTest, SizeIsThatOfTheBlobsOnDisk) {
  const absl::StatusOr<int64_t> size = repo_.SizeBytes();

  ASSERT_THAT(size, IsOk());
  int64_t expected = 0;
  for (const std::string& blob : {kOnlyOld, kShared, kOnlyNew}) {
    expected += AllocatedBytes(repo_.BlobPath(blob));
  }
  EXPECT_EQ(*size, expected);
}

}  // namespace
}  // namespace modeld
