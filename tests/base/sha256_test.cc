#include "server/base/sha256.h"

#include <gtest/gtest.h>

#include <string>

namespace modeld {
namespace {

// FIPS 180-4's example "abc".
TEST(Sha256Test, DigestOfAbc) {
  Sha256 hash;
  hash.Update(std::string("abc"));
  EXPECT_EQ(hash.HexDigest(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(Sha256Test, SavedStateGoesOnWhereItStopped) {
  std::string data;
  for (int i = 0; i < 100'000; ++i) data.push_back(static_cast<char>(i * 7));
  Sha256 whole;
  whole.Update(data);
  const std::string expected = whole.HexDigest();

  for (const size_t cut : {0UL, 1UL, 63UL, 64UL, 65UL, 50'001UL, data.size()}) {
    Sha256 first;
    first.Update(std::string_view(data).substr(0, cut));
    auto second = Sha256::FromState(first.SaveState());
    ASSERT_TRUE(second.has_value());
    second->Update(std::string_view(data).substr(cut));
    EXPECT_EQ(second->HexDigest(), expected) << cut;
  }
}

TEST(Sha256Test, TextThatIsNoStateIsRefused) {
  const std::string state = Sha256().SaveState();
  EXPECT_FALSE(Sha256::FromState("").has_value());
  EXPECT_FALSE(Sha256::FromState(state.substr(2)).has_value());
  EXPECT_FALSE(Sha256::FromState(std::string(state.size(), 'f')).has_value());
  EXPECT_FALSE(Sha256::FromState(std::string(state.size(), 'x')).has_value());
}

// hub-protocol.md 2.1.
TEST(GitBlobSha1Test, EmptyBlob) {
  EXPECT_EQ(GitBlobSha1(0).HexDigest(), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
}

// `printf 'hello\n' | git hash-object --stdin`.
TEST(GitBlobSha1Test, BlobInPieces) {
  GitBlobSha1 hash(6);
  hash.Update(std::string("hel"));
  hash.Update(std::string("lo\n"));
  EXPECT_EQ(hash.HexDigest(), "ce013625030ba8dba906f756967f9e9ca394464a");
}

}  // namespace
}  // namespace modeld
