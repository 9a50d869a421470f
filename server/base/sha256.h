// Streaming digests: SHA-256, whose state can be saved and taken up again, and git's blob SHA-1.
#pragma once

#include <openssl/evp.h>
#include <openssl/sha.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace modeld {

// One thread at a time.
class Sha256 {
 public:
  Sha256();

  void Update(std::span<const char> data);
  // Lower-case hex of all bytes so far; the object must not be used after it.
  std::string HexDigest();

  // The state after the bytes so far as printable text, for a process that goes on later on this
  // kind of machine, and back; nothing when `state` is not such text.
  std::string SaveState() const;
  static std::optional<Sha256> FromState(std::string_view state);

 private:
  SHA256_CTX context_;
};

// What git names a blob: sha1("blob <size>\0" + content). One thread at a time.
class GitBlobSha1 {
 public:
  explicit GitBlobSha1(int64_t size_bytes);

  void Update(std::span<const char> data);
  // As above.
  std::string HexDigest();

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace modeld
