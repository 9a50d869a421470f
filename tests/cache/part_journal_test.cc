#include "server/cache/part_journal.h"

#include <gtest/gtest.h>

#include <string>

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
  journal.sha256_state = "00ff";
  journal.sha256_offset = 300;
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
    EXPECT_EQ(read->sha256_state, "00ff");
    EXPECT_EQ(read->sha256_offset, 300);
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
