#include "server/control/space_promise.h"

#include <filesystem>
#include <string>
#include <vector>

#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/control/tables.h"
#include "tests/support/postgres.h"
#include "tests/support/small_disk.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

constexpr char kRepo[] = "org/m";
constexpr int64_t kMib = 1 << 20;
const std::string kCommit(40, 'c');

class SpacePromiseTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_THAT(database_.Migrate(), IsOk()); }

  SpacePromise Promise(const std::string& operation, const std::vector<RepoFile>& files,
                       const std::string& node = "node-a") {
    return {tables_, {.name = operation, .node_id = node}, cache(), kRepo, kCommit, files};
  }
  static RepoFile File(const std::string& path, char blob, int64_t size_bytes) {
    return {.path = path,
            .size_bytes = size_bytes,
            .blob = std::string(64, blob),
            .git_oid = std::string(40, blob),
            .lfs = true};
  }
  // Bytes of a part file that an earlier download left.
  void WritePart(const RepoFile& file, int64_t bytes) {
    const RepoCache repo(cache(), kRepo);
    ASSERT_THAT(repo.Prepare(kCommit), IsOk());
    ASSERT_THAT(
        WriteFileAtomically(repo.PartPath(file.blob), std::string(static_cast<size_t>(bytes), 'x')),
        IsOk());
  }
  int64_t Reserved() {
    return tables_.reservations.Reserved(FilesystemOf(cache())->id, "").value_or(-1);
  }
  const std::string& cache() const { return folder_.path(); }

  TempDir folder_;
  Database database_{{.url = TestPostgres::Shared().NewDatabase()}};
  Tables tables_{database_};
};

TEST_F(SpacePromiseTest, CountsSharedBlobsOnceAndBytesOfPartFilesNotAtAll) {
  const std::vector<RepoFile> files = {File("a", '1', 10 * kMib), File("b", '1', 10 * kMib),
                                       File("c", '2', 5 * kMib)};
  WritePart(files[0], 4 * kMib);

  ASSERT_THAT(Promise("op", files).Make(), IsOk());

  EXPECT_EQ(Reserved(), 11 * kMib);
}

TEST_F(SpacePromiseTest, FollowsWhatIsStillMissing) {
  const std::vector<RepoFile> files = {File("a", '1', 10 * kMib), File("b", '2', 5 * kMib),
                                       File("c", '3', 3 * kMib)};
  SpacePromise promise = Promise("op", files);
  ASSERT_THAT(promise.Make(), IsOk());
  WritePart(files[0], 8 * kMib);

  ASSERT_THAT(promise.Follow({{.path = "a", .state = FileState::kDownloading},
                              {.path = "b", .state = FileState::kPending},
                              {.path = "c", .state = FileState::kDone}}),
              IsOk());
  EXPECT_EQ(Reserved(), 7 * kMib);
  // A part that was thrown away and begins anew must not be promised to others in between.
  WritePart(files[0], 0);
  ASSERT_THAT(promise.Follow({{.path = "a", .state = FileState::kDownloading},
                              {.path = "b", .state = FileState::kPending},
                              {.path = "c", .state = FileState::kDone}}),
              IsOk());
  EXPECT_EQ(Reserved(), 7 * kMib);
  ASSERT_THAT(promise.Make(), IsOk());
  EXPECT_EQ(Reserved(), 18 * kMib);
}

TEST_F(SpacePromiseTest, ProgressOfOtherFilesChangesNothing) {
  SpacePromise promise = Promise("op", {File("a", '1', 10 * kMib)});
  ASSERT_THAT(promise.Make(), IsOk());

  ASSERT_THAT(promise.Follow({}), IsOk());

  EXPECT_EQ(Reserved(), 10 * kMib);
}

TEST_F(SpacePromiseTest, TwoDaemonsOfOneMachineNeverPromiseTheSameRoom) {
  SmallDisk::Run(cache() + "/disk", 64, [&](SmallDisk&) {
    const auto promise = [&](const char* operation, const char* node, char blob) {
      return SpacePromise(tables_, {.name = operation, .node_id = node}, cache() + "/disk", kRepo,
                          kCommit, {File("a", blob, 40 * kMib)});
    };
    ASSERT_THAT(promise("one", "node-a", '1').Make(), IsOk());

    const absl::Status refused = promise("two", "node-b", '2').Make();

    EXPECT_THAT(refused, HasReasonOf(Reason::kInsufficientDisk));
    EXPECT_EQ(DetailsOf(refused).metadata["required_bytes"], std::to_string(40 * kMib));
    EXPECT_EQ(DetailsOf(refused).metadata["free_bytes"], std::to_string(24 * kMib));
    EXPECT_EQ(*RoomFor(tables_, cache() + "/disk", "one"), 64 * kMib);
    EXPECT_EQ(*RoomFor(tables_, cache() + "/disk", ""), 24 * kMib);
  });
}

TEST_F(SpacePromiseTest, AShortageSaysWhatIsMissingInAllAndWhatIsFreeForIt) {
  SmallDisk::Run(cache() + "/disk", 16, [&](SmallDisk& disk) {
    SpacePromise promise(tables_, {.name = "op", .node_id = "n"}, cache() + "/disk", kRepo, kCommit,
                         {File("a", '1', 4 * kMib), File("b", '2', 2 * kMib)});
    ASSERT_THAT(promise.Make(), IsOk());
    disk.EatAll();

    const absl::Status shortage = promise.Shortage(absl::ResourceExhaustedError("write: no space"));

    EXPECT_THAT(shortage, HasReasonOf(Reason::kInsufficientDisk));
    EXPECT_THAT(std::string(shortage.message()), testing::HasSubstr("write: no space"));
    EXPECT_EQ(DetailsOf(shortage).metadata["required_bytes"], std::to_string(6 * kMib));
    EXPECT_EQ(DetailsOf(shortage).metadata["free_bytes"], "0");
  });
}

}  // namespace
}  // namespace modeld
