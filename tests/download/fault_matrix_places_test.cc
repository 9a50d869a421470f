// What the machine, its other programs and odd repositories do to a download, each with its end.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "server/base/clock.h"
#include "server/base/file.h"
#include "server/cache/repo_cache.h"
#include "server/core/reason.h"
#include "tests/download/fault_matrix.h"
#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

class FaultMatrixPlacesTest : public FaultMatrixFixture {
 protected:
  // The row is the name of the test.
  // The test's name is also the revision, of which it may do what it wants.
  void SetUp() override {
    const char* const name = testing::UnitTest::GetInstance()->current_test_info()->name();
    Use(name, name);
  }
  void ExpectFails(const DownloadJob& job, Reason reason) {
    const Outcome outcome = DownloadProcess(hub(), job).Wait();
    EXPECT_EQ(outcome.reason, ReasonName(reason)) << outcome.message;
    ExpectNoWrongByte();
  }
  void ExpectCompletes(const DownloadJob& job) {
    const Outcome outcome = DownloadProcess(hub(), job).Wait();
    ASSERT_TRUE(outcome.ok) << outcome.message;
    ExpectComplete();
  }
  // The threads that it takes end with it: a process with threads cannot start a download.
  RepoListing List(const std::string& revision) { return Downloader(hub()).List(revision); }
  std::string WeightsBlob() {
    for (const RepoFile& file : List(revision_).files) {
      if (file.lfs) return file.blob;
    }
    return "";
  }
};

bool InLongRuns() {
  const char* value = std::getenv("MODELD_LONG");  // NOLINT(concurrency-mt-unsafe): one thread
  return value != nullptr && *value != '\0';
}

bool OwnMounts() {
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  return mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

bool MakeReadOnly(const std::string& folder) {
  return OwnMounts() &&
         mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND | MS_REC, nullptr) == 0 &&
         mount(nullptr, folder.c_str(), nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY, nullptr) == 0;
}

// Everyone but root obeys the permissions.
bool BecomeNobody() {
  constexpr uid_t kNobody = 65534;
  return geteuid() != 0 || setresuid(kNobody, kNobody, kNobody) == 0;
}

TEST_F(FaultMatrixPlacesTest, AFileThatChangedAtTheHubBetweenRangesIsRefused) {
  FaultMatrix::Get().AddModel(revision_);
  const auto process = StartToTheMiddle();
  AddFile("model.safetensors", TestBytes(FaultMatrix::kWeightsBytes, 99));
  hub().ClearFaults();

  const Outcome outcome = process->Wait();

  EXPECT_EQ(outcome.reason, ReasonName(Reason::kDigestMismatch)) << outcome.message;
  ExpectNoWrongByte();
  FaultMatrix::Get().AddModel(revision_);
  ExpectCompletes(Job());
}

TEST_F(FaultMatrixPlacesTest, ARevisionThatMovedMeanwhileEndsAtTheCommitItBeganWith) {
  FaultMatrix::Get().AddModel(revision_);
  const std::string first = revision_;
  hub().AddRevisionFile(kRepo, "Moved", "config.json", "{}");
  hub().ChangeRepo(kRepo, R"({"branches":{"moving":")" + first + "\"}}");
  revision_ = "moving";
  const auto process = StartToTheMiddle();
  hub().ChangeRepo(kRepo, R"({"branches":{"moving":"Moved"}})");
  hub().ClearFaults();

  const Outcome outcome = process->Wait();

  ASSERT_TRUE(outcome.ok) << outcome.message;
  EXPECT_EQ(repo().ReadRef("moving").value_or(""), List(first).commit);
  ExpectCompletes(Job());
}

TEST_F(FaultMatrixPlacesTest, AReadOnlyCacheIsSaidAndACompleteOneIsEnough) {
  FaultMatrix::Get().AddModel(revision_);
  fs::create_directories(cache_);
  DownloadJob job = Job();
  job.prepare = [this] { return MakeReadOnly(cache_); };
  ExpectFails(job, Reason::kCacheNotWritable);
  ExpectCompletes(Job());

  const Outcome again = DownloadProcess(hub(), job).Wait();

  EXPECT_TRUE(again.ok) << again.message;
  EXPECT_EQ(again.fetched_bytes, 0);
}

TEST_F(FaultMatrixPlacesTest, ACacheOfSomebodyElseIsSaid) {
  FaultMatrix::Get().AddModel(revision_);
  fs::create_directories(cache_);
  ASSERT_EQ(chmod(cache_.c_str(), 0555), 0);
  DownloadJob job = Job();
  job.prepare = BecomeNobody;

  ExpectFails(job, Reason::kCacheNotWritable);

  ASSERT_EQ(chmod(cache_.c_str(), 0755), 0);
  ExpectCompletes(Job());
}

TEST_F(FaultMatrixPlacesTest, ABlobFolderDeletedUnderUsIsFilledAgain) {
  FaultMatrix::Get().AddModel(revision_);
  const auto process = StartToTheMiddle();
  fs::remove_all(repo().blobs_path());
  hub().ClearFaults();

  const Outcome outcome = process->Wait();

  ASSERT_TRUE(outcome.ok) << outcome.message;
  ExpectComplete();
}

// As another program holds it: the file of the lock, flock(2), a process that lives.
std::optional<UniqueFd> HoldLock(const RepoCache& repo, const std::string& blob) {
  const std::string path = repo.LockPath(blob);
  fs::create_directories(fs::path(path).parent_path());
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0664));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return std::nullopt;
  return fd;
}

TEST_F(FaultMatrixPlacesTest, ABlobThatTheHolderOfItsLockPublishesIsNotFetched) {
  FaultMatrix::Get().AddModel(revision_);
  const std::string blob = WeightsBlob();
  std::optional<UniqueFd> lock = HoldLock(repo(), blob);
  ASSERT_TRUE(lock);
  hub().ClearRequests();
  DownloadProcess process(hub(), Job());
  // Its small files come, the weights do not: it waits.
  const auto small_files_came = [&] {
    int bodies = 0;
    for (const FakeHubRequest& request : hub().Requests()) {
      bodies += request.on == "resolve" && request.bytes > 0 ? 1 : 0;
    }
    return bodies >= 2;
  };
  while (!process.ended() && !small_files_came()) Clock::Real().Sleep(milliseconds(5), {});
  ASSERT_FALSE(process.ended());
  fs::create_directories(repo().blobs_path());
  ASSERT_THAT(WriteFileAtomically(repo().BlobPath(blob), TestBytes(FaultMatrix::kWeightsBytes, 1)),
              IsOk());
  lock.reset();

  const Outcome outcome = process.Wait();

  ASSERT_TRUE(outcome.ok) << outcome.message;
  EXPECT_LT(outcome.fetched_bytes, FaultMatrix::kWeightsBytes);
  ExpectComplete();
}

TEST_F(FaultMatrixPlacesTest, ALockWhoseHolderDiesIsTakenOver) {
  FaultMatrix::Get().AddModel(revision_);
  auto holder = StartToTheMiddle();
  DownloadProcess process(hub(), Job());
  holder->Kill();
  hub().ClearFaults();

  const Outcome outcome = process.Wait();

  ASSERT_TRUE(outcome.ok) << outcome.message;
  ExpectComplete();
}

// On some network filesystems a lock outlives the process that held it.
TEST_F(FaultMatrixPlacesTest, ALockThatNobodyLetsGoIsGivenUp) {
  FaultMatrix::Get().AddModel(revision_);
  const std::optional<UniqueFd> lock = HoldLock(repo(), WeightsBlob());
  ASSERT_TRUE(lock);
  DownloadJob job = Job();
  job.options.lock_wait_max = milliseconds(300);

  ExpectCompletes(job);
}

TEST_F(FaultMatrixPlacesTest, TwoProcessesShareOneDownload) {
  FaultMatrix::Get().AddModel(revision_);
  hub().AddFault(R"({"kind":"drip","on":"cdn","bytes_per_s":16000000})");
  DownloadProcess first(hub(), Job());
  DownloadProcess second(hub(), Job());

  const Outcome one = first.Wait();
  const Outcome other = second.Wait();

  EXPECT_TRUE(one.ok) << one.message;
  EXPECT_TRUE(other.ok) << other.message;
  EXPECT_LE(static_cast<double>(one.fetched_bytes + other.fetched_bytes),
            1.02 * FaultMatrix::kModelBytes);
  ExpectComplete();
}

TEST_F(FaultMatrixPlacesTest, OddNamesAndEmptyFilesArriveUnderTheirNames) {
  for (const char* name : {"with space.bin", "hash#mark.bin", "per%cent%20.bin", "question?.bin",
                           "plus+and&.bin", "ünï-日本語.bin", "a/deep/er/folder/file.bin",
                           "-dash.bin", "semi;colon:.bin", "'quotes\"`.bin"}) {
    AddFile(name, TestBytes(2'000, static_cast<uint32_t>(std::hash<std::string>()(name))));
  }
  AddFile(std::string(255, 'n'), TestBytes(2'000, 7));
  AddFile("empty.txt", "");
  AddFile("sub/empty.safetensors", "");

  ExpectCompletes(Job());
}

// One folder with all of them, as data sets have.
void AddTinyFiles(const std::string& row, int count, FakeHub& hub) {
  for (int i = 0; i < count; ++i) {
    hub.AddRevisionFile(kRepo, row, "part/" + std::to_string(i) + ".txt", std::to_string(i));
  }
}

TEST_F(FaultMatrixPlacesTest, ManyFilesArriveAll) {
  AddTinyFiles(revision_, InLongRuns() ? 100'000 : 10'000, hub());

  ExpectCompletes(Job());
}

// In long runs past 4 GiB, where numbers of 32 bits end.
TEST_F(FaultMatrixPlacesTest, ALargeFileArrives) {
  const int64_t size_bytes = InLongRuns() ? 5'000'000'000 : 50'000'000;
  hub().AddSparseFile(kRepo, revision_, "model.safetensors", size_bytes);

  ExpectCompletes(Job());
}

}  // namespace
}  // namespace modeld
