#include "server/cache/space.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/sysmacros.h>

#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "server/base/file.h"
#include "server/cache/cache_error.h"
#include "server/cache/repo_cache.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(FilesystemOfTest, APathThatIsNotThereYetIsThatOfItsParent) {
  TempDir dir;

  const absl::StatusOr<Filesystem> there = FilesystemOf(dir.path());
  const absl::StatusOr<Filesystem> later = FilesystemOf(dir.path() + "/a/b/c");

  ASSERT_THAT(there, IsOk());
  ASSERT_THAT(later, IsOk());
  EXPECT_EQ(there->id, later->id);
  EXPECT_GT(there->total_bytes, 0);
  EXPECT_GE(there->total_bytes, there->free_bytes);
}

TEST(FilesystemOfTest, FilesystemsOfOneMachineHaveDifferentIds) {
  EXPECT_NE(FilesystemOf("/proc")->id, FilesystemOf("/sys")->id);
}

TEST(MountSourceTest, TheSourceOfTheDeviceIsFound) {
  const std::string_view mounts =
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
      "40 22 0:52 / /models rw master:3 shared:2 - nfs4 server:/export/a\\040b rw,vers=4.2\n"
      "41 22 0:53 / /none rw\n";

  EXPECT_EQ(MountSource(mounts, makedev(0, 52)), "server:/export/a\\040b");
  EXPECT_EQ(MountSource(mounts, makedev(8, 1)), "/dev/sda1");
  EXPECT_EQ(MountSource(mounts, makedev(0, 53)), "");
  EXPECT_EQ(MountSource(mounts, makedev(9, 9)), "");
}

struct SpaceCase {
  const char* name;
  int64_t required_bytes;
  int64_t reserved_bytes;
  bool sufficient;
  bool warning;
};

class CheckSpaceTest : public testing::TestWithParam<SpaceCase> {};

// 1000 bytes, 400 of them free.
TEST_P(CheckSpaceTest, Decides) {
  const Filesystem filesystem{.id = "1", .type = "ext4", .total_bytes = 1000, .free_bytes = 400};

  const SpaceCheck check =
      CheckSpace("/data", filesystem, GetParam().required_bytes, GetParam().reserved_bytes);

  EXPECT_EQ(check.sufficient, GetParam().sufficient);
  EXPECT_EQ(check.warning, GetParam().warning);
  EXPECT_EQ(check.free_bytes, 400 - GetParam().reserved_bytes);
  EXPECT_THAT(check.message, HasSubstr("/data"));
}

INSTANTIATE_TEST_SUITE_P(All, CheckSpaceTest,
                         testing::Values(SpaceCase{"Fits", 300, 0, true, false},
                                         SpaceCase{"FitsAboveNinetyPerCent", 301, 0, true, true},
                                         SpaceCase{"JustFits", 400, 0, true, true},
                                         SpaceCase{"DoesNotFit", 401, 0, false, true},
                                         SpaceCase{"OthersHaveReservedIt", 300, 200, false, true},
                                         SpaceCase{"NotKnown", -1, 0, true, true},
                                         SpaceCase{"Nothing", 0, 0, true, false}),
                         [](const auto& info) { return info.param.name; });

class CheckNoSymlinksTest : public testing::Test {
 protected:
  TempDir root_;
};

TEST_F(CheckNoSymlinksTest, FoldersAndWhatIsNotThereAreFine) {
  fs::create_directories(root_.path() + "/a/b");

  EXPECT_THAT(CheckNoSymlinks(root_.path() + "/a/b", root_.path()), IsOk());
  EXPECT_THAT(CheckNoSymlinks(root_.path() + "/a/new/cache", root_.path()), IsOk());
  EXPECT_THAT(CheckNoSymlinks(root_.path(), root_.path()), IsOk());
}

TEST_F(CheckNoSymlinksTest, ALinkOnTheWayIsRefused) {
  TempDir elsewhere;
  fs::create_directories(root_.path() + "/a");
  fs::create_directory_symlink(elsewhere.path(), root_.path() + "/a/link");
  fs::create_symlink("/nowhere", root_.path() + "/dangling");

  for (const char* path : {"/a/link", "/a/link/cache", "/dangling", "/dangling/x"}) {
    EXPECT_THAT(CheckNoSymlinks(root_.path() + path, root_.path()), NamesField("cache_path"))
        << path;
  }
}

TEST_F(CheckNoSymlinksTest, APathBesideTheRootIsRefused) {
  EXPECT_THAT(CheckNoSymlinks(root_.path() + "x/cache", root_.path()), NamesField("cache_path"));
  EXPECT_THAT(CheckNoSymlinks("/etc", root_.path()), NamesField("cache_path"));
}

TEST(SummarizeCacheTest, CountsRepositoriesAndTheirBytes) {
  TempDir dir;
  ASSERT_THAT(PrepareCache(dir.path()), IsOk());
  for (const char* repo : {"acme/one", "acme/two"}) {
    const RepoCache cache(dir.path(), repo);
    ASSERT_THAT(cache.Prepare(std::string(40, 'c')), IsOk());
    ASSERT_THAT(
        WriteFileAtomically(cache.BlobPath(std::string(40, 'a')), std::string(100'000, 'x')),
        IsOk());
  }

  const absl::StatusOr<CacheSummary> summary = SummarizeCache(dir.path());

  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary->repositories, 2);
  EXPECT_GE(summary->used_bytes, 200'000);
  EXPECT_EQ(summary->cache_path, dir.path());
}

TEST(SummarizeCacheTest, ACacheThatIsNotThereYetIsEmpty) {
  TempDir dir;

  const absl::StatusOr<CacheSummary> summary = SummarizeCache(dir.path() + "/later");

  ASSERT_THAT(summary, IsOk());
  EXPECT_EQ(summary->repositories, 0);
  EXPECT_EQ(summary->used_bytes, 0);
}

TEST(CacheErrorTest, AnUnwritableCacheComesWithTheCommandThatHelps) {
  TempDir dir;

  const absl::Status error =
      CacheError(absl::PermissionDeniedError("mkdir /x: Permission denied"), dir.path());

  EXPECT_THAT(error, HasReasonOf(Reason::kCacheNotWritable));
  EXPECT_THAT(std::string(error.message()), HasSubstr("chown -R"));
  EXPECT_THAT(std::string(error.message()), HasSubstr(dir.path()));
}

TEST(CacheErrorTest, AFullDiskComesWithBothFigures) {
  TempDir dir;

  const absl::Status error =
      CacheError(absl::ResourceExhaustedError("write x: No space left"), dir.path(), 1234);

  EXPECT_THAT(error, HasReasonOf(Reason::kInsufficientDisk));
  EXPECT_EQ(DetailsOf(error).metadata.at("required_bytes"), "1234");
  EXPECT_TRUE(DetailsOf(error).metadata.contains("free_bytes"));
}

TEST(CacheErrorTest, OtherErrorsStayWhatTheyAre) {
  EXPECT_THAT(CacheError(absl::OkStatus(), "/x"), IsOk());
  EXPECT_THAT(CacheError(absl::InternalError("I/O"), "/x"), StatusIs(absl::StatusCode::kInternal));
}

}  // namespace
}  // namespace modeld
