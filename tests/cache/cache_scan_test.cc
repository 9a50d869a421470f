#include "server/cache/cache_scan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string kCommit(40, '1');
const std::string kBlob(64, 'a');

class CacheScanTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_THAT(PrepareCache(dir_.path()), IsOk()); }
  // A repository with one blob of 5 bytes under two names.
  void AddRepo(const RepoCache& repo) {
    ASSERT_THAT(repo.Prepare(kCommit), IsOk());
    ASSERT_THAT(WriteFileAtomically(repo.BlobPath(kBlob), "bytes"), IsOk());
    for (const char* path : {"a", "sub/b"}) {
      ASSERT_THAT(repo.Link(kCommit, {.path = path, .size_bytes = 5, .blob = kBlob}), IsOk());
    }
    ASSERT_THAT(repo.WriteRef("main", kCommit), IsOk());
  }
  CacheScan Scan(const std::string& repo_id = "") {
    const auto scan = ScanCache(dir_.path(), repo_id);
    EXPECT_THAT(scan, IsOk());
    return scan.value_or(CacheScan());
  }

  TempDir dir_;
  RepoCache repo_{dir_.path(), "acme/model"};
};

TEST_F(CacheScanTest, CountsABlobWithTwoNamesOnce) {
  AddRepo(repo_);

  const CacheScan scan = Scan();

  EXPECT_THAT(scan.warnings, IsEmpty());
  ASSERT_THAT(scan.repositories, SizeIs(1));
  const CachedRepository& repository = scan.repositories[0];
  EXPECT_EQ(repository.type, "model");
  EXPECT_EQ(repository.repo_id, "acme/model");
  EXPECT_EQ(repository.size_bytes, 5);
  EXPECT_EQ(repository.file_count, 1);
  ASSERT_THAT(repository.revisions, SizeIs(1));
  EXPECT_EQ(repository.revisions[0].commit, kCommit);
  EXPECT_THAT(repository.revisions[0].refs, ElementsAre("main"));
  EXPECT_EQ(repository.revisions[0].size_bytes, 5);
  ASSERT_THAT(repository.revisions[0].files, SizeIs(2));
  EXPECT_EQ(repository.revisions[0].files[1].path, "sub/b");
  EXPECT_EQ(repository.revisions[0].files[1].blob(), kBlob);
  EXPECT_EQ(scan.size_bytes, 5);
}

TEST_F(CacheScanTest, FilesThatLieInTheSnapshotHaveNoBlob) {
  AddRepo(repo_);
  const std::string path = repo_.SnapshotPath(kCommit) + "/plain";
  ASSERT_THAT(WriteFileAtomically(path, "seven.."), IsOk());

  const CacheScan scan = Scan();

  ASSERT_THAT(scan.repositories, SizeIs(1));
  EXPECT_EQ(scan.repositories[0].size_bytes, 12);
  ASSERT_THAT(scan.repositories[0].revisions[0].files, SizeIs(3));
  EXPECT_EQ(scan.repositories[0].revisions[0].files[1].blob(), "");
}

TEST_F(CacheScanTest, ASharedPayloadIsCountedOnceForTheCache) {
  const std::string hash(64, 'f');
  const std::string payload = dir_.path() + "/hub/blobs/ff/" + hash;
  ASSERT_THAT(MakeDirectories(dir_.path() + "/hub/blobs/ff"), IsOk());
  ASSERT_THAT(WriteFileAtomically(payload, "shared!", 0444), IsOk());
  ASSERT_THAT(
      WriteFileAtomically(dir_.path() + "/hub/blobs/.huggingface-shared-blobs", "1\n", 0444),
      IsOk());
  for (const char* id : {"acme/one", "acme/two"}) {
    const RepoCache repo(dir_.path(), id);
    AddRepo(repo);
    fs::create_symlink("../../blobs/ff/" + hash, repo.BlobPath(std::string(64, 'b')));
    fs::create_symlink("../../blobs/" + std::string(64, 'b'), repo.SnapshotPath(kCommit) + "/x");
  }

  const CacheScan scan = Scan();

  EXPECT_THAT(scan.warnings, IsEmpty());
  ASSERT_THAT(scan.repositories, SizeIs(2));
  EXPECT_EQ(scan.repositories[0].size_bytes, 5 + 7);
  EXPECT_TRUE(scan.repositories[0].revisions[0].files[2].shared);
  EXPECT_FALSE(scan.repositories[0].revisions[0].files[0].shared);
  EXPECT_EQ(scan.size_bytes, 5 + 5 + 7);
}

TEST_F(CacheScanTest, BrokenAndForeignEntriesAreWarningsAndStay) {
  AddRepo(repo_);
  const std::string hub = dir_.path() + "/hub";
  const RepoCache dangling(dir_.path(), "acme/dangling");
  AddRepo(dangling);
  fs::remove(dangling.BlobPath(kBlob));
  const RepoCache lost_ref(dir_.path(), "acme/lost");
  AddRepo(lost_ref);
  ASSERT_THAT(WriteFileAtomically(lost_ref.repo_path() + "/refs/old", std::string(40, '9')),
              IsOk());
  fs::create_directories(hub + "/models--acme--empty");
  fs::create_directories(hub + "/something");
  ASSERT_THAT(WriteFileAtomically(hub + "/a--file", "x"), IsOk());
  ASSERT_THAT(WriteFileAtomically(hub + "/.DS_Store", "x"), IsOk());

  const CacheScan scan = Scan();

  ASSERT_THAT(scan.repositories, SizeIs(1));
  EXPECT_EQ(scan.repositories[0].repo_id, "acme/model");
  std::string paths;
  for (const CacheWarning& warning : scan.warnings) paths += warning.path + "\n";
  EXPECT_THAT(scan.warnings, SizeIs(5)) << paths;
  EXPECT_THAT(paths, HasSubstr("models--acme--dangling/snapshots/" + kCommit + "/a"));
  EXPECT_THAT(paths, HasSubstr("models--acme--lost/refs/old"));
  EXPECT_TRUE(fs::exists(hub + "/something"));
  EXPECT_TRUE(fs::exists(lost_ref.repo_path() + "/refs/old"));
}

// huggingface_hub reads refs as they are, so that one with a newline names no commit.
TEST_F(CacheScanTest, ARefWithANewlineBreaksItsRepository) {
  AddRepo(repo_);
  ASSERT_THAT(WriteFileAtomically(repo_.repo_path() + "/refs/main", kCommit + "\n"), IsOk());

  const CacheScan scan = Scan();

  EXPECT_THAT(scan.repositories, IsEmpty());
  ASSERT_THAT(scan.warnings, SizeIs(1));
  EXPECT_THAT(scan.warnings[0].path, HasSubstr("refs/main"));
}

TEST_F(CacheScanTest, TellsWhoseThePartialFilesAre) {
  AddRepo(repo_);
  ASSERT_THAT(WriteFileAtomically(repo_.PartPath(kBlob), "half"), IsOk());
  ASSERT_THAT(WriteFileAtomically(repo_.JournalPath(kBlob), "{}"), IsOk());
  ASSERT_THAT(WriteFileAtomically(repo_.BlobPath(kBlob) + ".0123abcd.incomplete", "hal"), IsOk());

  const CacheScan scan = Scan();

  ASSERT_THAT(scan.partial_files, SizeIs(2));
  EXPECT_TRUE(scan.partial_files[0].ours);
  EXPECT_EQ(scan.partial_files[0].size_bytes, 4);
  EXPECT_FALSE(scan.partial_files[1].ours);
  EXPECT_EQ(scan.partial_files[1].size_bytes, 3);
}

TEST_F(CacheScanTest, OtherKindsOfRepositoriesHaveTheirType) {
  AddRepo(repo_);
  const std::string hub = dir_.path() + "/hub";
  fs::copy(repo_.repo_path(), hub + "/datasets--acme--set",
           fs::copy_options::recursive | fs::copy_options::copy_symlinks);

  const CacheScan scan = Scan();

  ASSERT_THAT(scan.repositories, SizeIs(2));
  EXPECT_EQ(scan.repositories[0].type, "dataset");
  EXPECT_EQ(scan.repositories[0].repo_id, "acme/set");
  EXPECT_THAT(Scan("acme/model").repositories, SizeIs(1));
}

TEST_F(CacheScanTest, ACacheThatIsNotThereIsEmpty) {
  const auto scan = ScanCache(dir_.path() + "/none");

  ASSERT_THAT(scan, IsOk());
  EXPECT_THAT(scan->repositories, IsEmpty());
  EXPECT_FALSE(fs::exists(dir_.path() + "/none"));
}

}  // namespace
}  // namespace modeld
