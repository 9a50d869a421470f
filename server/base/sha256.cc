// OpenSSL 3 deprecates SHA256_CTX, but it is the one form whose state is plain bytes; EVP's is not.
#define OPENSSL_SUPPRESS_DEPRECATED
#include "server/base/sha256.h"

#include <array>
#include <cstring>

#include "absl/strings/escaping.h"
#include "server/base/status.h"

namespace modeld {
namespace {

std::string ToHex(const unsigned char* bytes, size_t n) {
  return absl::BytesToHexString(std::string(reinterpret_cast<const char*>(bytes), n));
}

}  // namespace

Sha256::Sha256() { SHA256_Init(&context_); }

void Sha256::Update(std::span<const char> data) {
  SHA256_Update(&context_, data.data(), data.size());
}

std::string Sha256::HexDigest() {
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest{};
  SHA256_Final(digest.data(), &context_);
  return ToHex(digest.data(), digest.size());
}

std::string Sha256::SaveState() const {
  return ToHex(reinterpret_cast<const unsigned char*>(&context_), sizeof context_);
}

std::optional<Sha256> Sha256::FromState(std::string_view state) {
  if (state.size() != 2 * sizeof(SHA256_CTX)) return std::nullopt;
  if (state.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  const std::string bytes = absl::HexStringToBytes(std::string(state));
  Sha256 out;
  std::memcpy(&out.context_, bytes.data(), sizeof out.context_);
  // A state that this library could not have made would make it write outside its buffer.
  if (out.context_.num >= SHA256_CBLOCK || out.context_.md_len != SHA256_DIGEST_LENGTH) {
    return std::nullopt;
  }
  return out;
}

GitBlobSha1::GitBlobSha1(int64_t size_bytes) : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
  MODELD_CHECK(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha1(), nullptr) == 1,
               "OpenSSL has no SHA-1");
  std::string header = "blob " + std::to_string(size_bytes);
  header.push_back('\0');
  EVP_DigestUpdate(context_.get(), header.data(), header.size());
}

void GitBlobSha1::Update(std::span<const char> data) {
  EVP_DigestUpdate(context_.get(), data.data(), data.size());
}

std::string GitBlobSha1::HexDigest() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int n = 0;
  EVP_DigestFinal_ex(context_.get(), digest.data(), &n);
  return ToHex(digest.data(), n);
}

}  // namespace modeld
