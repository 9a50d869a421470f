#include "server/curl/url.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/status_matchers.h"

namespace modeld {
namespace {

TEST(UrlTest, OriginHasLowerCaseHostAndWrittenPort) {
  EXPECT_EQ(*UrlOrigin("https://Hub.Example/a?b"), "https://hub.example:443");
  EXPECT_EQ(*UrlOrigin("http://hub.example"), "http://hub.example:80");
  EXPECT_EQ(*UrlOrigin("http://127.0.0.1:8090/x"), "http://127.0.0.1:8090");
}

TEST(UrlTest, OnlyHttpUrlsHaveAnOrigin) {
  for (const char* url : {"file:///etc/passwd", "ftp://a/b", "", "/relative", "https://"}) {
    EXPECT_THAT(UrlOrigin(url), StatusIs(absl::StatusCode::kInvalidArgument)) << url;
  }
}

TEST(UrlTest, SchemeHostAndPortTellOriginsApart) {
  EXPECT_TRUE(SameOrigin("https://a.example/x", "https://A.example:443/y?z"));
  EXPECT_FALSE(SameOrigin("https://a.example", "http://a.example"));
  EXPECT_FALSE(SameOrigin("https://a.example", "https://a.example:8443"));
  EXPECT_FALSE(SameOrigin("https://a.example", "https://a.example.evil"));
  EXPECT_FALSE(SameOrigin("https://a.example", "https://a.example@evil.example"));
  EXPECT_FALSE(SameOrigin("nonsense", "nonsense"));
}

TEST(UrlTest, RelativeReferenceKeepsItsQuery) {
  const std::string base = "https://hub.example/org/name/resolve/main/f?old=1";

  EXPECT_EQ(*ResolveUrl(base, "/api/cache/f?etag=%22a%22#part"),
            "https://hub.example/api/cache/f?etag=%22a%22");
  EXPECT_EQ(*ResolveUrl(base, "https://cdn.example/f?sig=1&x=a%2Fb"),
            "https://cdn.example/f?sig=1&x=a%2Fb");
  EXPECT_EQ(*ResolveUrl(base, "//cdn.example/f"), "https://cdn.example/f");
}

TEST(UrlTest, ReferenceToAnotherSchemeIsRefused) {
  EXPECT_THAT(ResolveUrl("https://hub.example/", "file:///etc/passwd"),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(UrlTest, PercentEncodingKeepsOnlyUnreservedAndWhatIsAsked) {
  EXPECT_EQ(PercentEncode("refs/pr/1"), "refs%2Fpr%2F1");
  EXPECT_EQ(PercentEncode("a b#c%d?e/f~.txt", "/"), "a%20b%23c%25d%3Fe/f~.txt");
  EXPECT_EQ(PercentEncode("\xc3\xa9"), "%C3%A9");
}

TEST(UrlTest, LoggedUrlHasNoSecret) {
  EXPECT_EQ(UrlForLog("https://user:pass@cdn.example/f?Signature=s3cret#x"),
            "https://cdn.example/f");
  EXPECT_EQ(UrlForLog("https://cdn.example/a@b"), "https://cdn.example/a@b");
  EXPECT_EQ(UrlForLog("bad\nline"), "bad?line");
  EXPECT_EQ(UrlForLog(std::string(5000, 'x')).size(), 200);
}

}  // namespace
}  // namespace modeld
