#include "server/cache/folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class FolderTest : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_THAT(MakeDirectories((root_ / "b/empty").string()), IsOk());
    ASSERT_THAT(WriteFileAtomically((root_ / "b/file").string(), "x"), IsOk());
    ASSERT_THAT(WriteFileAtomically((root_ / "a").string(), "x"), IsOk());
    fs::create_symlink("b", root_ / "link");
  }

  TempDir dir_;
  fs::path root_ = fs::path(dir_.path()) / "root";
};

TEST_F(FolderTest, EntriesAreInOrder) {
  const auto entries = EntriesOf(root_);
  ASSERT_THAT(entries, IsOk());
  EXPECT_THAT(*entries, ElementsAre(root_ / "a", root_ / "b", root_ / "link"));
}

TEST_F(FolderTest, LeavesAreAllButFoldersAndLinksAreNotFollowed) {
  const auto leaves = LeavesOf(root_);
  ASSERT_THAT(leaves, IsOk());
  EXPECT_THAT(*leaves, ElementsAre(root_ / "a", root_ / "b/file", root_ / "link"));
}

TEST_F(FolderTest, AFolderThatIsMissingHasNoLeaves) {
  const auto leaves = LeavesOf(root_ / "none");
  ASSERT_THAT(leaves, IsOk());
  EXPECT_THAT(*leaves, IsEmpty());
  EXPECT_THAT(EntriesOf(root_ / "none"), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FolderTest, AFolderThatCannotBeReadIsAnErrorThatNamesIt) {
  fs::create_directory_symlink("loop", root_ / "loop");
  EXPECT_THAT(LeavesOf(root_ / "loop").status().message(), HasSubstr("root/loop"));
  EXPECT_THAT(EntriesOf(root_ / "loop").status().message(), HasSubstr("root/loop"));
}

}  // namespace
}  // namespace modeld
