#include "server/hub/hub_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "server/base/file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace modeld {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class HubTokensTest : public testing::Test {
 protected:
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = folder_.path() + "/" + name;
    EXPECT_THAT(WriteFileAtomically(path, text), IsOk());
    return path;
  }

  TempDir folder_;
};

TEST_F(HubTokensTest, WithoutAnyTheTokenIsEmpty) {
  HubTokens tokens({});

  EXPECT_EQ(*tokens.Get(""), "");
}

TEST_F(HubTokensTest, AChangedFileCountsAtOnce) {
  HubTokens tokens({.token = "not this", .token_file = Write("token", "hf_one\n")});
  EXPECT_EQ(*tokens.Get(""), "hf_one");

  Write("token", "  hf_two\r\n");

  EXPECT_EQ(*tokens.Get(""), "hf_two");
}

TEST_F(HubTokensTest, AFileThatIsJustWrittenAnewTakesNothingAway) {
  HubTokens tokens({.token_file = Write("token", "hf_one")});
  EXPECT_EQ(*tokens.Get(""), "hf_one");

  Write("token", "");
  EXPECT_EQ(*tokens.Get(""), "hf_one");
  std::filesystem::remove(folder_.path() + "/token");
  EXPECT_EQ(*tokens.Get(""), "hf_one");
}

TEST_F(HubTokensTest, AFileThatWasNeverGoodIsAnError) {
  HubTokens tokens({.token_file = folder_.path() + "/none"});

  EXPECT_THAT(tokens.Get(""), HasReasonOf(Reason::kHubAccessDenied));
}

TEST_F(HubTokensTest, CredentialsComeFromTheirFolder) {
  Write("team", "hf_team\n");
  HubTokens tokens({.token = "hf_own", .credentials_dir = folder_.path()});

  EXPECT_EQ(*tokens.Get("team"), "hf_team");
  EXPECT_EQ(*tokens.Get(""), "hf_own");
}

TEST_F(HubTokensTest, AMissingCredentialIsNamedAndNoTokenIs) {
  Write("empty", "\n");
  HubTokens tokens({.token = "hf_own", .credentials_dir = folder_.path()});

  for (const char* name : {"nobody", "empty"}) {
    const absl::Status status = tokens.Get(name).status();
    EXPECT_THAT(status, HasReasonOf(Reason::kHubAccessDenied));
    EXPECT_THAT(std::string(status.message()),
                AllOf(HasSubstr(name), HasSubstr(folder_.path()), Not(HasSubstr("hf_own"))));
  }
  EXPECT_THAT(HubTokens({.token = "hf_own"}).Get("nobody"), HasReasonOf(Reason::kHubAccessDenied));
}

TEST_F(HubTokensTest, ACredentialOutsideOfItsFolderIsRefused) {
  Write("token", "hf_own");
  HubTokens tokens({.credentials_dir = folder_.path() + "/sub"});

  EXPECT_THAT(tokens.Get("../token"), NamesField("token_credential"));
  EXPECT_THAT(tokens.Get(".."), NamesField("token_credential"));
}

}  // namespace
}  // namespace modeld
