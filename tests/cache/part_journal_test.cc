#include "server/cache/part_journal.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

PartJournal AJournal() {
  PartJournal journal;
  journal.blob = std::string(64, 'a');
  journal.size_bytes = 1000;
  journal.done = {{0, 300}, {500, 600}};
  journal.durable = {{0, 200}};
  journal.boot_id = BootId();
  journal.digest = {"00ff", 300};
  journal.durable_digest = {"00ee", 200};
  return journal;
}

TEST(PartJournalTest, ReadsBackWhatWasWritten) {
  TempDir dir;
  for (const JournalWrite mode : {JournalWrite::kQuick, JournalWrite::kDurable}) {
    const std::string path = dir.path() + "/journal";
    ASSERT_THAT(WritePartJournal(path, AJournal(), mode), IsOk());

    const absl::StatusOr<PartJournal> read = ReadPartJournal(path);

    ASSERT_THAT(read, IsOk());
    EXPECT_EQ(read->blob, AJournal().blob);
    EXPECT_EQ(read->size_bytes, 1000);
    EXPECT_EQ(read->done, AJournal().done);
    EXPECT_EQ(read->durable, AJournal().durable);
    EXPECT_EQ(read->digest, AJournal().digest);
    EXPECT_EQ(read->durable_digest, AJournal().durable_digest);
  }
}

// Bytes in the page cache are gone with the machine; synced ones are not.
TEST(PartJournalTest, TrustsUnsyncedBytesOnlyUntilTheMachineStartsAnew) {
  PartJournal journal = AJournal();
  EXPECT_EQ(journal.Trusted(), journal.done);

  journal.boot_id = "another-boot";
  EXPECT_EQ(journal.Trusted(), journal.durable);

  journal.boot_id = "";
  EXPECT_EQ(journal.Trusted(), journal.durable);
}

// Each write leaves the one before it in its place, so a torn one costs a step and no more.
TEST(PartJournalTest, ATornWriteLeavesTheOneBefore) {
  TempDir dir;
  const std::string path = dir.path() + "/journal";
  JournalFile file(path);
  PartJournal journal = AJournal();
  for (const int64_t end : {310, 320, 330}) {
    journal.done = {{0, end}};
    ASSERT_THAT(file.Write(journal, JournalWrite::kQuick), IsOk());
  }
  std::string text = *ReadFile(path);
  const size_t newest = text.find("[[0,330]]");
  ASSERT_NE(newest, std::string::npos);
  text.replace(newest, 9, "[[0,999]]");
  ASSERT_THAT(WriteFileAtomically(path, text), IsOk());

  const absl::StatusOr<PartJournal> read = ReadPartJournal(path);

  ASSERT_THAT(read, IsOk());
  EXPECT_EQ(read->done, (std::vector<ByteRange>{{0, 320}}));
}

TEST(PartJournalTest, AnotherWriterGoesOnWhereTheLastOneWas) {
  TempDir dir;
  const std::string path = dir.path() + "/journal";
  PartJournal journal = AJournal();
  for (const int64_t end : {310, 320, 330}) {
    journal.done = {{0, end}};
    ASSERT_THAT(WritePartJournal(path, journal, JournalWrite::kQuick), IsOk());
    EXPECT_EQ(ReadPartJournal(path)->done, journal.done);
  }
}

// A journal that cannot name all ranges names the first of them.
TEST(PartJournalTest, NamesAsManyRangesAsHaveRoom) {
  TempDir dir;
  const std::string path = dir.path() + "/journal";
  PartJournal journal = AJournal();
  journal.size_bytes = int64_t{1} << 50;
  journal.done.clear();
  for (int64_t i = 0; i < 10'000; ++i) {
    journal.done.push_back({(i << 30) + 1, (i << 30) + 1000});
  }
  ASSERT_THAT(WritePartJournal(path, journal, JournalWrite::kQuick), IsOk());

  const absl::StatusOr<PartJournal> read = ReadPartJournal(path);

  ASSERT_THAT(read, IsOk());
  EXPECT_GE(read->done.size(), 1000U);
  EXPECT_EQ(read->done.front(), journal.done.front());
  EXPECT_LE(ReadFile(path)->size(), 128U << 10);
}

struct BrokenJournal {
  const char* name;
  const char* text;
};

class BrokenJournalTest : public testing::TestWithParam<BrokenJournal> {};

TEST_P(BrokenJournalTest, IsRefused) {
  TempDir dir;
  const std::string path = dir.path() + "/journal";
  ASSERT_THAT(WriteFileAtomically(path, GetParam().text), IsOk());

  EXPECT_THAT(ReadPartJournal(path), StatusIs(absl::StatusCode::kDataLoss));
}

INSTANTIATE_TEST_SUITE_P(
    All, BrokenJournalTest,
    testing::Values(
        BrokenJournal{"Empty", ""}, BrokenJournal{"Torn", R"({"version":1,"blob":"aa","si)"},
        BrokenJournal{"NoFields", "{}"}, BrokenJournal{"NotAnObject", "[1]"},
        BrokenJournal{"LaterVersion",
                      R"({"version":2,"blob":"a","size":9,"done":[],"durable":[],"boot_id":"",
                          "sha256_state":"","sha256_offset":0})"},
        BrokenJournal{"RangePastTheEnd",
                      R"({"version":1,"blob":"a","size":9,"done":[[0,10]],"durable":[],"boot_id":"",
                          "sha256_state":"","sha256_offset":0})"},
        BrokenJournal{"RangesThatOverlap",
                      R"({"version":1,"blob":"a","size":9,"done":[[0,5],[4,6]],"durable":[],
                          "boot_id":"","sha256_state":"","sha256_offset":0})"},
        BrokenJournal{"NegativeRange",
                      R"({"version":1,"blob":"a","size":9,"done":[[-3,2]],"durable":[],"boot_id":"",
                          "sha256_state":"","sha256_offset":0})"},
        BrokenJournal{"StateOfMoreThanThereIs",
                      R"({"version":1,"blob":"a","size":9,"done":[],"durable":[],"boot_id":"",
                          "sha256_state":"","sha256_offset":10})"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace modeld
