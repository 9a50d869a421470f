#include "server/cache/repo_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "server/cache/part_journal.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::StartsWith;

const std::string kCommit(40, 'c');
const std::string kSha256(64, 'b');
const std::string kSha1(40, 'a');

RepoFile File(std::string path, int64_t size_bytes, std::string blob) {
  RepoFile file;
  file.path = std::move(path);
  file.size_bytes = size_bytes;
  file.lfs = blob.size() == 64;
  file.git_oid = file.lfs ? std::string(40, 'e') : blob;
  file.blob = std::move(blob);
  return file;
}

class RepoCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(PrepareCache(dir_.path()), IsOk());
    ASSERT_THAT(repo_.Prepare(kCommit), IsOk());
  }
  void Write(const std::string& path, std::string_view content) {
    ASSERT_THAT(WriteFileAtomically(path, content), IsOk());
  }
  std::string Read(const std::string& path) { return ReadFile(path).value_or("<missing>"); }

  TempDir dir_;
  RepoCache repo_{dir_.path(), "acme/model"};
};

TEST_F(RepoCacheTest, PrepareMakesTheFoldersOfHuggingFace) {
  for (const char* folder : {"hub/models--acme--model/blobs", "hub/models--acme--model/refs",
                             "hub/.locks/models--acme--model", "transformers", "xet"}) {
    EXPECT_TRUE(fs::is_directory(dir_.path() + "/" + folder)) << folder;
  }
  EXPECT_TRUE(fs::is_directory(repo_.SnapshotPath(kCommit)));
  EXPECT_THAT(Read(dir_.path() + "/hub/CACHEDIR.TAG"),
              StartsWith("Signature: 8a477f597d28d172789f06886806bc55\n"));
}

TEST_F(RepoCacheTest, PrepareKeepsATagThatIsThere) {
  Write(dir_.path() + "/hub/CACHEDIR.TAG", "theirs");

  ASSERT_THAT(PrepareCache(dir_.path()), IsOk());

  EXPECT_EQ(Read(dir_.path() + "/hub/CACHEDIR.TAG"), "theirs");
}

TEST_F(RepoCacheTest, PublishGivesThePartItsName) {
  Write(repo_.PartPath(kSha256), "four");

  ASSERT_THAT(repo_.PublishBlob(kSha256), IsOk());

  EXPECT_EQ(Read(repo_.BlobPath(kSha256)), "four");
  EXPECT_FALSE(fs::exists(repo_.PartPath(kSha256)));
}

// huggingface_hub 2 makes blobs that are links into a store shared by all repositories.
TEST_F(RepoCacheTest, PublishReplacesALinkedBlobWithoutWritingThroughIt) {
  Write(dir_.path() + "/shared", "theirs");
  fs::create_symlink(dir_.path() + "/shared", repo_.BlobPath(kSha256));
  Write(repo_.PartPath(kSha256), "ours");

  ASSERT_THAT(repo_.PublishBlob(kSha256), IsOk());

  EXPECT_EQ(Read(dir_.path() + "/shared"), "theirs");
  EXPECT_EQ(Read(repo_.BlobPath(kSha256)), "ours");
}

TEST_F(RepoCacheTest, LinkIsRelativeAtEveryDepth) {
  Write(repo_.BlobPath(kSha1), "12345");
  const std::string snapshot = repo_.SnapshotPath(kCommit);

  ASSERT_THAT(repo_.Link(kCommit, File("config.json", 5, kSha1)), IsOk());
  ASSERT_THAT(repo_.Link(kCommit, File("a/b/config.json", 5, kSha1)), IsOk());

  EXPECT_EQ(fs::read_symlink(snapshot + "/config.json"), "../../blobs/" + kSha1);
  EXPECT_EQ(fs::read_symlink(snapshot + "/a/b/config.json"), "../../../../blobs/" + kSha1);
  EXPECT_EQ(Read(snapshot + "/a/b/config.json"), "12345");
}

TEST_F(RepoCacheTest, LinkReplacesAnotherOneAndForgetsThatTheFileWasMissing) {
  Write(repo_.BlobPath(kSha1), "12345");
  Write(repo_.BlobPath(kSha256), "123456");
  ASSERT_THAT(repo_.Link(kCommit, File("x", 6, kSha256)), IsOk());
  ASSERT_THAT(MakeDirectories(repo_.repo_path() + "/.no_exist/" + kCommit), IsOk());
  Write(repo_.repo_path() + "/.no_exist/" + kCommit + "/x", "");

  ASSERT_THAT(repo_.Link(kCommit, File("x", 5, kSha1)), IsOk());

  EXPECT_EQ(Read(repo_.SnapshotPath(kCommit) + "/x"), "12345");
  EXPECT_FALSE(fs::exists(repo_.repo_path() + "/.no_exist/" + kCommit + "/x"));
}

TEST_F(RepoCacheTest, LinkRefusesPathsThatLeaveTheSnapshot) {
  Write(repo_.BlobPath(kSha1), "12345");
  for (const char* path : {"../x", "/etc/x", "a/../../x", "", "a//b", "a\\b", "C:x", "."}) {
    EXPECT_THAT(repo_.Link(kCommit, File(path, 5, kSha1)), HasReasonOf(Reason::kInvalidRepository))
        << path;
  }
}

TEST_F(RepoCacheTest, LinkDoesNotFollowALinkedFolder) {
  Write(repo_.BlobPath(kSha1), "12345");
  TempDir elsewhere;
  fs::create_directory_symlink(elsewhere.path(), repo_.SnapshotPath(kCommit) + "/sub");

  EXPECT_THAT(repo_.Link(kCommit, File("sub/x", 5, kSha1)),
              HasReasonOf(Reason::kInvalidRepository));
  EXPECT_TRUE(fs::is_empty(elsewhere.path()));
}

TEST_F(RepoCacheTest, LinkOfAMissingBlobIsRefused) {
  EXPECT_THAT(repo_.Link(kCommit, File("x", 5, kSha1)), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_FALSE(fs::is_symlink(repo_.SnapshotPath(kCommit) + "/x"));
}

TEST_F(RepoCacheTest, OnlyABlobOfTheRightSizeIsThere) {
  Write(repo_.BlobPath(kSha1), "12345");

  EXPECT_TRUE(repo_.HasBlob(File("x", 5, kSha1)));
  EXPECT_FALSE(repo_.HasBlob(File("x", 6, kSha1)));
  EXPECT_FALSE(repo_.HasBlob(File("x", 5, kSha256)));
}

TEST_F(RepoCacheTest, FindsFilesThatLieInASnapshotWithoutLinks) {
  Write(repo_.SnapshotPath(kCommit) + "/x", "12345");

  EXPECT_TRUE(repo_.HasInSnapshot(kCommit, File("x", 5, kSha1)));
  EXPECT_FALSE(repo_.HasInSnapshot(kCommit, File("x", 4, kSha1)));
}

TEST_F(RepoCacheTest, MissingBytesCountEachBlobOnceLessWhatItsPartHas) {
  Write(repo_.BlobPath(kSha1), "12345");
  Write(repo_.PartPath(kSha256), std::string(300, 'x'));
  PartJournal journal;
  journal.blob = kSha256;
  journal.size_bytes = 1000;
  journal.done = journal.durable = {{0, 300}};
  journal.boot_id = BootId();
  ASSERT_THAT(WritePartJournal(repo_.JournalPath(kSha256), journal, JournalWrite::kQuick), IsOk());
  const std::string third(40, 'd');

  const std::vector<RepoFile> files = {File("there", 5, kSha1), File("begun", 1000, kSha256),
                                       File("begun again", 1000, kSha256), File("new", 50, third)};

  EXPECT_EQ(repo_.MissingBytes(kCommit, files), 750);
}

// Space allocated by a process that was killed is not free, and not needed again either.
TEST_F(RepoCacheTest, SpaceNeededLeavesOutWhatIsAllocated) {
  Write(repo_.PartPath(kSha256), std::string(1 << 20, 'x'));

  EXPECT_EQ(repo_.SpaceNeeded(kCommit, {File("begun", 1 << 20, kSha256)}), 0);
  EXPECT_EQ(repo_.SpaceNeeded(kCommit, {File("new", 50, kSha1)}), 50);
}

TEST_F(RepoCacheTest, TreeIsByteForByteThatOfHuggingFace) {
  RepoListing listing;
  listing.commit = kCommit;
  listing.files = {File("config.json", 5, kSha1), File("sub/\u00fcber.safetensors", 1000, kSha256)};
  listing.files.back().xet_hash = std::string(64, 'f');

  ASSERT_THAT(repo_.WriteTree(listing), IsOk());

  const std::string path = repo_.repo_path() + "/trees/" + kCommit + ".json";
  EXPECT_EQ(Read(path),
            "{\n"
            " \"files\": {\n"
            "  \"config.json\": {\n"
            "   \"blob_id\": \"" +
                kSha1 +
                "\",\n"
                "   \"size\": 5\n"
                "  },\n"
                "  \"sub/\\u00fcber.safetensors\": {\n"
                "   \"blob_id\": \"" +
                std::string(40, 'e') +
                "\",\n"
                "   \"lfs_sha256\": \"" +
                kSha256 +
                "\",\n"
                "   \"lfs_size\": 1000,\n"
                "   \"size\": 1000,\n"
                "   \"xet_hash\": \"" +
                std::string(64, 'f') +
                "\"\n"
                "  }\n"
                " },\n"
                " \"format_version\": 1\n"
                "}");
  struct stat info{};
  ASSERT_EQ(stat(path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0644U);
  const absl::StatusOr<RepoListing> read = repo_.ReadTree(kCommit);
  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->files, listing.files);
}

TEST_F(RepoCacheTest, BrokenTreesAreRefused) {
  ASSERT_THAT(MakeDirectories(repo_.repo_path() + "/trees"), IsOk());
  EXPECT_THAT(repo_.ReadTree(kCommit), StatusIs(absl::StatusCode::kNotFound));
  for (
      const char* text :
      {"", "{}", R"({"format_version":2,"files":{}})",
       R"({"format_version":1,"files":{"../x":{"size":1,"blob_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}})",
       R"({"format_version":1,"files":{"x":{"size":1,"blob_id":"../../x"}}})",
       R"({"format_version":1,"files":{"x":{"size":-1,"blob_id":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}}})"}) {
    Write(repo_.repo_path() + "/trees/" + kCommit + ".json", text);
    EXPECT_THAT(repo_.ReadTree(kCommit), HasReasonOf(Reason::kInvalidRepository)) << text;
  }
}

TEST_F(RepoCacheTest, RefHasFortyBytesAndMayBeNested) {
  ASSERT_THAT(repo_.WriteRef("main", kCommit), IsOk());
  ASSERT_THAT(repo_.WriteRef("refs/pr/1", kCommit), IsOk());

  EXPECT_EQ(Read(repo_.repo_path() + "/refs/main"), kCommit);
  EXPECT_EQ(Read(repo_.repo_path() + "/refs/refs/pr/1"), kCommit);
  EXPECT_EQ(*repo_.ReadRef("refs/pr/1"), kCommit);
}

TEST_F(RepoCacheTest, RefIsWrittenOnlyWhenItMoves) {
  ASSERT_THAT(repo_.WriteRef("main", kCommit), IsOk());
  struct stat before{};
  ASSERT_EQ(stat((repo_.repo_path() + "/refs/main").c_str(), &before), 0);

  ASSERT_THAT(repo_.WriteRef("main", kCommit), IsOk());

  struct stat after{};
  ASSERT_EQ(stat((repo_.repo_path() + "/refs/main").c_str(), &after), 0);
  EXPECT_EQ(before.st_ino, after.st_ino);
  ASSERT_THAT(repo_.WriteRef("main", std::string(40, 'd')), IsOk());
  EXPECT_EQ(*repo_.ReadRef("main"), std::string(40, 'd'));
}

TEST_F(RepoCacheTest, ACommitHasNoRefAndABadNameIsRefused) {
  ASSERT_THAT(repo_.WriteRef(kCommit, kCommit), IsOk());

  EXPECT_TRUE(fs::is_empty(repo_.repo_path() + "/refs"));
  EXPECT_THAT(repo_.WriteRef("../../x", kCommit), HasReasonOf(Reason::kInvalidField));
}

TEST_F(RepoCacheTest, ARefWithANewlineIsNoCommit) {
  Write(repo_.repo_path() + "/refs/main", kCommit + "\n");

  EXPECT_THAT(repo_.ReadRef("main"), HasReasonOf(Reason::kInvalidRepository));
}

// Root may write anywhere, so the refusal comes from a file that stands where a folder should.
TEST(PrepareCacheTest, SaysWhatIsInTheWay) {
  TempDir dir;
  ASSERT_THAT(WriteFileAtomically(dir.path() + "/hub", "a file"), IsOk());

  EXPECT_THAT(std::string(PrepareCache(dir.path()).message()), HasSubstr(dir.path() + "/hub"));
}

}  // namespace
}  // namespace modeld
