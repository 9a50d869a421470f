#include "server/hub/hub_json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

using testing::ElementsAre;
using testing::Field;

const std::string kOid(40, 'a');
const std::string kSha256(64, 'b');

std::string FileEntry(const std::string& path, const std::string& size = "3") {
  return R"({"type":"file","path":")" + path + R"(","size":)" + size + R"(,"oid":")" + kOid + "\"}";
}

absl::Status ParsePage(const std::string& json) {
  std::vector<RepoFile> files;
  RETURN_IF_ERROR(AppendTreePage(json, files));
  return FinishListing(files);
}

TEST(HubJsonTest, RevisionIsItsSha) {
  EXPECT_EQ(*ParseRevision(R"({"id":"a/b","sha":")" + kOid + "\"}"), kOid);
}

TEST(HubJsonTest, RevisionWithoutACommitIsRefused) {
  EXPECT_THAT(ParseRevision("<html>"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ParseRevision("[]"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ParseRevision("{}"), HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(ParseRevision(R"({"sha":7})"), HasReasonOf(Reason::kInvalidRepository));
  EXPECT_THAT(ParseRevision(R"({"sha":"../../etc"})"), HasReasonOf(Reason::kInvalidRepository));
}

TEST(HubJsonTest, LfsFileIsNamedByItsSha256AndHasItsOwnSize) {
  std::vector<RepoFile> files;

  ASSERT_THAT(AppendTreePage(R"([{"type":"directory","path":"d","oid":"x","size":0},
                         {"type":"file","path":"d/w","size":134,"oid":")" +
                                 kOid + R"(","lfs":{"oid":")" + kSha256 +
                                 R"(","size":5000000000},"xetHash":"x"}])",
                             files),
              IsOk());

  ASSERT_EQ(files.size(), 1);
  EXPECT_EQ(files[0], (RepoFile{.path = "d/w",
                                .size_bytes = 5'000'000'000,
                                .blob = kSha256,
                                .git_oid = kOid,
                                .lfs = true,
                                .xet_hash = "x"}));
}

TEST(HubJsonTest, ListingIsSortedByPath) {
  std::vector<RepoFile> files;
  ASSERT_THAT(AppendTreePage("[" + FileEntry("b") + "," + FileEntry("a/c") + "]", files), IsOk());

  ASSERT_THAT(FinishListing(files), IsOk());

  EXPECT_THAT(files, ElementsAre(Field(&RepoFile::path, "a/c"), Field(&RepoFile::path, "b")));
}

TEST(HubJsonTest, HostilePathsAreRefused) {
  for (const char* path :
       {"", "../x", "a/../../x", "/etc/passwd", "a//b", "a/./b", "a\\\\b", "a\\u0000b", "C:x"}) {
    EXPECT_THAT(ParsePage("[" + FileEntry(path) + "]"), HasReasonOf(Reason::kInvalidRepository))
        << path;
  }
}

TEST(HubJsonTest, HostileEntriesAreRefused) {
  const std::string pages[] = {
      "[7]",
      R"([{"type":"file"}])",
      R"([{"type":"file","path":7,"size":1,"oid":")" + kOid + "\"}]",
      R"([{"type":"file","path":"a","size":1,"oid":"../../x"}])",
      R"([{"type":"file","path":"a","size":1,"oid":")" + kOid +
          R"(","lfs":{"oid":"/x","size":1}}])",
      R"([{"type":"file","path":"a","size":1,"oid":")" + kOid + R"(","lfs":{}}])",
      "[" + FileEntry("a", "-1") + "]",
      "[" + FileEntry("a", "1e300") + "]",
      "[" + FileEntry("a", "18446744073709551615") + "]",
      "[" + FileEntry("a", "\"3\"") + "]",
      "[" + FileEntry("a") + "," + FileEntry("a") + "]",
      "[" + FileEntry("a") + "," + FileEntry("a/b") + "]",
      "[" + FileEntry("a", "1") + "," + FileEntry("b", "2") + "]",
  };
  for (const std::string& page : pages) {
    EXPECT_THAT(ParsePage(page), HasReasonOf(Reason::kInvalidRepository)) << page;
  }
}

TEST(HubJsonTest, DeeplyNestedJsonDoesNotEndTheProcess) {
  const std::string deep(200'000, '[');

  EXPECT_THAT(ParsePage(deep), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(HubJsonTest, NextLinkIsFoundAmongOthers) {
  const auto next = [](std::vector<std::pair<std::string, std::string>> headers) {
    return NextLink(HttpResponse{.headers = std::move(headers)});
  };

  EXPECT_EQ(next({{"Link", "<https://h/a?cursor=1,2>; rel=\"next\""}}), "https://h/a?cursor=1,2");
  EXPECT_EQ(next({{"link", "<https://h/p>; rel=\"prev\", <https://h/n>; rel=next"}}),
            "https://h/n");
  EXPECT_EQ(next({{"Link", "<https://h/x>; rel=\"xet-auth\""}, {"Link", "<n>; rel=\"a next\""}}),
            "n");
  EXPECT_EQ(next({{"Link", "<https://h/x>; title=\"a, b\"; rel=\"next\""}}), "https://h/x");
  EXPECT_EQ(next({{"Link", "<https://h/x>; rel=\"nextone\""}}), std::nullopt);
  EXPECT_EQ(next({{"Link", "<unclosed; rel=next"}}), std::nullopt);
  EXPECT_EQ(next({}), std::nullopt);
}

TEST(HubJsonTest, EtagLosesWeaknessAndQuotes) {
  EXPECT_EQ(NormaliseEtag("\"" + kOid + "\""), kOid);
  EXPECT_EQ(NormaliseEtag("W/\"" + kOid + "\""), kOid);
  EXPECT_EQ(NormaliseEtag(kOid), kOid);
  EXPECT_EQ(NormaliseEtag(""), "");
}

}  // namespace
}  // namespace modeld
