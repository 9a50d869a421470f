// A cache on a filesystem that has no symbolic links, as exFAT and some network filesystems.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "server/cache/cache_scan.h"
#include "server/cache/repo_cache.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace {

// What symlink(2) fails with; 0: it works.
std::atomic<int> refusal = 0;

}  // namespace

// In place of the C library's, for this program.
extern "C" int symlink(const char* target, const char* path) noexcept {
  if (refusal == 0) return symlinkat(target, AT_FDCWD, path);
  errno = refusal;
  return -1;
}

namespace modeld {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class NoSymlinksTest : public testing::TestWithParam<int> {
 protected:
  NoSymlinksTest() { refusal = GetParam(); }
  ~NoSymlinksTest() override { refusal = 0; }

  TempDir dir_;
  RepoCache repo_{dir_.path(), "acme/model"};
};

TEST_P(NoSymlinksTest, ADownloadIsRefusedBeforeItsFirstByteAndSaysWhatToDo) {
  const absl::Status prepared = PrepareCache(dir_.path());

  EXPECT_THAT(prepared, HasReasonOf(Reason::kCacheNotWritable));
  EXPECT_THAT(std::string(prepared.message()), HasSubstr("mfsymlinks"));
}

TEST_P(NoSymlinksTest, FilesInTheSnapshotAreReadAndScanned) {
  const std::string commit(40, '1');
  ASSERT_THAT(MakeDirectories(repo_.SnapshotPath(commit)), IsOk());
  ASSERT_THAT(WriteFileAtomically(repo_.SnapshotPath(commit) + "/config.json", "{}"), IsOk());

  EXPECT_TRUE(repo_.HasInSnapshot(commit, {.path = "config.json", .size_bytes = 2}));
  const auto scan = ScanCache(dir_.path());

  ASSERT_THAT(scan, IsOk());
  EXPECT_THAT(scan->warnings, IsEmpty());
  ASSERT_THAT(scan->repositories, SizeIs(1));
  EXPECT_EQ(scan->repositories[0].size_bytes, 2);
}

INSTANTIATE_TEST_SUITE_P(All, NoSymlinksTest, testing::Values(EPERM, EOPNOTSUPP, ENOSYS));

}  // namespace
}  // namespace modeld
