#include "server/download/part_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "server/base/sha256.h"
#include "server/cache/tree_size.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_hub.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

constexpr int64_t kSize = 5'000'000;

std::string Sha256Of(const std::string& content) {
  Sha256 digest;
  digest.Update(content);
  return digest.HexDigest();
}

class PartFileTest : public testing::Test {
 protected:
  std::unique_ptr<PartFile> Open() {
    absl::StatusOr<std::unique_ptr<PartFile>> part = PartFile::Open(path_, file_, clock_);
    EXPECT_THAT(part, IsOk());
    return part.ok() ? *std::move(part) : nullptr;
  }
  // What a file's last steps come to.
  static std::string Finish(PartFile& part) {
    while (part.hashed() < part.size_bytes()) {
      const int64_t before = part.hashed();
      EXPECT_THAT(part.HashBehind(1 << 20), IsOk());
      if (part.hashed() == before) return "no digest";
    }
    EXPECT_THAT(part.Sync(), IsOk());
    return part.Digest();
  }
  // Writes content_[begin, end) in pieces as libcurl's.
  void Append(PartFile& part, int64_t begin, int64_t end) {
    for (int64_t at = begin; at < end; at += 16'384) {
      const auto n = static_cast<size_t>(std::min<int64_t>(16'384, end - at));
      ASSERT_THAT(part.Write(at, {content_.data() + at, n}), IsOk());
    }
  }
  void ChangeJournal(const std::function<void(PartJournal&)>& change) {
    absl::StatusOr<PartJournal> journal = ReadPartJournal(path_ + ".json");
    ASSERT_THAT(journal, IsOk());
    change(*journal);
    ASSERT_THAT(WritePartJournal(path_ + ".json", *journal, JournalWrite::kQuick), IsOk());
  }

  TempDir dir_;
  FakeClock clock_;
  const std::string path_ = dir_.path() + "/part";
  const std::string content_ = TestBytes(kSize, 7);
  const RepoFile file_{.path = "x", .size_bytes = kSize, .blob = Sha256Of(content_), .lfs = true};
};

TEST_F(PartFileTest, HasTheModeOfTheUmask) {
  const mode_t mask = umask(0027);
  const auto part = Open();
  umask(mask);

  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640U);
}

TEST_F(PartFileTest, TakesAWholeFile) {
  const auto part = Open();
  EXPECT_EQ(part->written(), 0);

  Append(*part, 0, kSize);

  EXPECT_TRUE(part->whole());
  EXPECT_EQ(Finish(*part), file_.blob);
  EXPECT_EQ(*ReadFile(path_), content_);
}

TEST_F(PartFileTest, GoesOnAfterWhatWasKept) {
  Append(*Open(), 0, 100'000);  // less than a journal step, and not kept: gone
  {
    const auto part = Open();
    EXPECT_EQ(part->written(), 0);
    Append(*part, 0, 3'000'001);
    ASSERT_THAT(part->Keep(), IsOk());
  }

  const auto part = Open();

  EXPECT_EQ(part->written(), 3'000'001);
  Append(*part, 3'000'001, kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

// Without Keep(), as after kill -9: no more than a journal step is lost, of bytes and of the
// digest.
TEST_F(PartFileTest, LosesLittleWhenItIsNotKept) {
  Append(*Open(), 0, 4'900'000);

  const auto part = Open();

  EXPECT_GE(part->written(), 4'900'000 - PartFile::kJournalStep - 16'384);
  EXPECT_EQ(part->hashed(), part->written());
  Append(*part, part->written(), kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

TEST_F(PartFileTest, AfterAMachineRestartOnlySyncedBytesCount) {
  {
    const auto part = Open();
    Append(*part, 0, 2'500'000);  // past a journal step
    clock_.Advance(std::chrono::seconds(10));
    ASSERT_THAT(part->SyncIfDue(), IsOk());
    Append(*part, 2'500'000, 4'300'000);  // and these are not synced
    ASSERT_THAT(part->Keep(), IsOk());
  }
  ChangeJournal([](PartJournal& journal) { journal.boot_id = "before"; });

  const auto part = Open();

  EXPECT_EQ(part->written(), 2'500'000);
  EXPECT_EQ(part->hashed(), 2'500'000);
  Append(*part, part->written(), kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

// Bytes of several connections: the digest follows when the gap before them is closed.
TEST_F(PartFileTest, TakesBytesInAnyOrderAndHashesEachOnce) {
  const auto part = Open();
  Append(*part, 3'000'000, kSize);
  EXPECT_EQ(part->hashed(), 0);
  Append(*part, 1'000'000, 2'000'000);
  EXPECT_EQ(part->Missing(), (std::vector<ByteRange>{{0, 1'000'000}, {2'000'000, 3'000'000}}));

  Append(*part, 0, 1'000'000);
  EXPECT_GE(part->hashed(), 1'000'000);
  Append(*part, 2'000'000, 3'000'000);

  EXPECT_TRUE(part->whole());
  EXPECT_EQ(Finish(*part), file_.blob);
  EXPECT_EQ(part->hash_work(), kSize);
}

// Whoever brings a byte first has it: what is hashed already must not change under the digest.
TEST_F(PartFileTest, AByteIsWrittenOnceOnly) {
  const auto part = Open();
  Append(*part, 0, 100'000);
  const std::string wrong(100'000, 'x');

  const absl::StatusOr<int64_t> taken = part->Write(0, wrong);

  ASSERT_THAT(taken, IsOk());
  EXPECT_EQ(*taken, 0);
  Append(*part, 100'000, kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
  EXPECT_EQ(*ReadFile(path_), content_);
}

TEST_F(PartFileTest, GoesOnWithHolesAndGivesTheirSpaceBack) {
  {
    const auto part = Open();
    Append(*part, 0, 1'000'000);
    Append(*part, 3'000'000, 4'000'000);
    ASSERT_THAT(part->Keep(), IsOk());
  }
  EXPECT_LT(AllocatedBytes(path_), 2'100'000);

  const auto part = Open();

  EXPECT_EQ(part->reused(), 2'000'000);
  EXPECT_EQ(part->hashed(), 1'000'000);
  Append(*part, 4'000'000, kSize);
  Append(*part, 1'000'000, 3'000'000);
  EXPECT_EQ(Finish(*part), file_.blob);
  EXPECT_EQ(part->hash_work(), kSize - 1'000'000);
}

// Four connections with a segment each, in an order by chance, up to `bytes` more in the file.
void Fetch(PartFile& part, const std::string& content, int64_t bytes, std::mt19937& chance) {
  constexpr int64_t kSegment = 4 << 20;
  constexpr int64_t kPiece = 256 << 10;
  RangeSet open(part.Missing());
  std::vector<ByteRange> connections(4);
  while (bytes > 0 && !part.whole()) {
    ByteRange& next = connections[chance() % connections.size()];
    if (next.begin >= next.end) {
      if (open.ranges().empty()) continue;
      const ByteRange first = open.ranges().front();
      next = {first.begin, std::min(first.end, first.begin + kSegment)};
      open.Remove(next);
    }
    const int64_t n = std::min({bytes, kPiece, next.end - next.begin});
    ASSERT_THAT(part.Write(next.begin, {content.data() + next.begin, static_cast<size_t>(n)}),
                IsOk());
    next.begin += n;
    bytes -= n;
  }
}

TEST_F(PartFileTest, AKillAtAnyPointRepeatsLittleOfTheDigest) {
  constexpr int64_t kBytes = 48 << 20;
  const char* in_long_runs = std::getenv("MODELD_LONG");  // NOLINT(concurrency-mt-unsafe)
  const int kills = in_long_runs != nullptr && *in_long_runs != '\0' ? 50 : 8;
  const std::string content = TestBytes(kBytes, 9);
  const RepoFile file{.path = "x", .size_bytes = kBytes, .blob = Sha256Of(content), .lfs = true};
  std::mt19937 chance(11);
  for (int kill = 0; kill < kills; ++kill) {
    const std::string path = dir_.path() + "/killed";
    int64_t hashed = 0;
    {
      const auto part = PartFile::Open(path, file, clock_);
      ASSERT_THAT(part, IsOk());
      Fetch(**part, content, static_cast<int64_t>(chance() % kBytes), chance);
      hashed = (*part)->hash_work();
    }
    const auto part = PartFile::Open(path, file, clock_);
    ASSERT_THAT(part, IsOk());
    Fetch(**part, content, kBytes, chance);

    EXPECT_EQ(Finish(**part), file.blob);
    EXPECT_LE(hashed + (*part)->hash_work(), kBytes + kBytes / 20);
    (*part)->Remove();
  }
}

// Four connections write pieces of one file at once, each piece two of them.
TEST_F(PartFileTest, ManyThreadsMakeOneFile) {
  const auto part = Open();
  constexpr int64_t kPiece = 50'000;
  std::atomic<int64_t> taken = 0;
  {
    std::vector<std::jthread> threads;
    for (int64_t thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int64_t at = thread / 2 * kPiece; at < kSize; at += 2 * kPiece) {
          const auto n = static_cast<size_t>(std::min(kPiece, kSize - at));
          const absl::StatusOr<int64_t> wrote = part->Write(at, {content_.data() + at, n});
          ASSERT_THAT(wrote, IsOk());
          taken += *wrote;
        }
      });
    }
  }
  EXPECT_EQ(taken, kSize);
  EXPECT_TRUE(part->whole());
  EXPECT_EQ(Finish(*part), file_.blob);
  EXPECT_EQ(*ReadFile(path_), content_);
}

// A filesystem without room for the whole is not filled up to find that out.
TEST_F(PartFileTest, MoreThanTheDiskHasTakesNothingOfIt) {
  const RepoFile file{.path = "x", .size_bytes = int64_t{1} << 50, .blob = file_.blob, .lfs = true};

  const auto part = PartFile::Open(path_, file, clock_);

  EXPECT_THAT(part, StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_EQ(AllocatedBytes(path_), 0);
}

TEST_F(PartFileTest, AJournalOfAnotherFileIsNotBelieved) {
  {
    const auto part = Open();
    Append(*part, 0, 3'000'000);
    ASSERT_THAT(part->Keep(), IsOk());
  }
  ChangeJournal([](PartJournal& journal) { journal.blob = std::string(64, '0'); });
  EXPECT_EQ(Open()->written(), 0);
}

TEST_F(PartFileTest, AJournalOfMoreThanTheFileHasIsNotBelieved) {
  {
    const auto part = Open();
    Append(*part, 0, 3'000'000);
    ASSERT_THAT(part->Keep(), IsOk());
  }
  std::filesystem::resize_file(path_, 1000);
  EXPECT_EQ(Open()->written(), 0);
}

TEST_F(PartFileTest, ADigestStateThatIsNoneIsComputedAnew) {
  {
    const auto part = Open();
    Append(*part, 0, 3'000'000);
    ASSERT_THAT(part->Keep(), IsOk());
  }
  ChangeJournal([](PartJournal& journal) { journal.digest.state = "zz"; });

  const auto part = Open();

  EXPECT_EQ(part->written(), 3'000'000);
  Append(*part, 3'000'000, kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

TEST_F(PartFileTest, AFileWithoutAJournalBeginsAnew) {
  ASSERT_THAT(WriteFileAtomically(path_, std::string(kSize, 'x')), IsOk());

  const auto part = Open();

  EXPECT_EQ(part->written(), 0);
  Append(*part, 0, kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

TEST_F(PartFileTest, RestartForgetsEveryByte) {
  const auto part = Open();
  Append(*part, 0, 3'000'000);

  ASSERT_THAT(part->Restart(), IsOk());

  EXPECT_EQ(part->written(), 0);
  EXPECT_FALSE(std::filesystem::exists(path_ + ".json"));
  Append(*part, 0, kSize);
  EXPECT_EQ(Finish(*part), file_.blob);
}

TEST_F(PartFileTest, TakesTheSpaceAtOnceAndGivesItBack) {
  const auto part = Open();
  struct stat info{};
  ASSERT_EQ(stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_size, 0);
  EXPECT_GE(AllocatedBytes(path_), kSize);

  Append(*part, 0, 1'000'000);
  ASSERT_THAT(part->Keep(), IsOk());

  EXPECT_LT(AllocatedBytes(path_), 1'100'000);
}

TEST_F(PartFileTest, GitFilesGoOnToo) {
  GitBlobSha1 sha1(kSize);
  sha1.Update(content_);
  const RepoFile file{.path = "x", .size_bytes = kSize, .blob = sha1.HexDigest()};
  {
    const auto part = PartFile::Open(path_, file, clock_);
    ASSERT_THAT(part, IsOk());
    Append(**part, 0, 3'000'000);
    ASSERT_THAT((*part)->Keep(), IsOk());
  }

  const auto part = PartFile::Open(path_, file, clock_);

  ASSERT_THAT(part, IsOk());
  EXPECT_EQ((*part)->written(), 3'000'000);
  Append(**part, 3'000'000, kSize);
  EXPECT_EQ(Finish(**part), file.blob);
}

TEST_F(PartFileTest, ALinkInItsPlaceIsNotFollowed) {
  ASSERT_THAT(WriteFileAtomically(dir_.path() + "/other", "kept"), IsOk());
  std::filesystem::create_symlink(dir_.path() + "/other", path_);

  EXPECT_FALSE(PartFile::Open(path_, file_, clock_).ok());
  EXPECT_EQ(*ReadFile(dir_.path() + "/other"), "kept");
}

}  // namespace
}  // namespace modeld
