#include "server/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

TEST(FileTest, ReplacedFileHoldsTheNewContentAndNothingIsLeftBeside) {
  const TempDir dir;
  const std::string path = dir.path() + "/ref";

  ASSERT_THAT(WriteFileAtomically(path, "old"), IsOk());
  ASSERT_THAT(WriteFileAtomically(path, "new"), IsOk());

  EXPECT_EQ(*ReadFile(path), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(FileTest, FailedReplacementLeavesTheOldFile) {
  const TempDir dir;
  const std::string path = dir.path() + "/folder";
  std::filesystem::create_directories(path + "/full");

  EXPECT_FALSE(WriteFileAtomically(path, "x").ok());

  EXPECT_TRUE(std::filesystem::is_directory(path + "/full"));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(FileTest, ErrorsNameThePathAndTheCode) {
  const auto missing = ReadFile("/nonexistent/file");

  EXPECT_THAT(missing, StatusIs(absl::StatusCode::kNotFound));
  EXPECT_NE(missing.status().message().find("/nonexistent/file"), std::string::npos);
}

TEST(FileTest, FileAboveTheLimitIsRefused) {
  const TempDir dir;
  std::ofstream(dir.path() + "/f") << std::string(100, 'x');

  EXPECT_THAT(ReadFile(dir.path() + "/f", 99), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(ReadFile(dir.path() + "/f", 100), IsOk());
}

TEST(FileTest, WrittenBytesAreReadBackAtTheirOffset) {
  const TempDir dir;
  const auto fd = OpenFile(dir.path() + "/f", O_RDWR | O_CREAT, 0600);
  ASSERT_THAT(fd, IsOk());
  ASSERT_THAT(WriteAt(fd->get(), std::string("abcdef"), 10, "f"), IsOk());

  char buffer[8] = {};
  const auto n = ReadAt(fd->get(), buffer, 12, "f");

  ASSERT_THAT(n, IsOk());
  EXPECT_EQ(std::string(buffer, static_cast<size_t>(*n)), "cdef");
}

TEST(FileTest, DirectoriesAreMadeOnceAndAFileInTheWayIsNamed) {
  const TempDir dir;
  EXPECT_THAT(MakeDirectories(dir.path() + "/a/b/c"), IsOk());
  EXPECT_THAT(MakeDirectories(dir.path() + "/a/b/c"), IsOk());
  std::ofstream(dir.path() + "/a/file") << "x";

  const absl::Status status = MakeDirectories(dir.path() + "/a/file/d");

  EXPECT_FALSE(status.ok());
  EXPECT_NE(status.message().find("/a/file"), std::string::npos);
}

TEST(FileLockTest, SecondHolderIsToldToTryLater) {
  const TempDir dir;
  const std::string path = dir.path() + "/lock";
  {
    const auto first = FileLock::TryAcquire(path);
    ASSERT_THAT(first, IsOk());
    EXPECT_THAT(FileLock::TryAcquire(path), StatusIs(absl::StatusCode::kUnavailable));
  }
  EXPECT_THAT(FileLock::TryAcquire(path), IsOk());
}

TEST(FileLockTest, LockFileIsForEverybodyWhateverTheUmask) {
  const TempDir dir;
  const mode_t before = umask(0077);
  const auto lock = FileLock::TryAcquire(dir.path() + "/lock");
  umask(before);

  ASSERT_THAT(lock, IsOk());
  struct stat info{};
  ASSERT_EQ(stat((dir.path() + "/lock").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0664U);
}

}  // namespace
}  // namespace modeld
