#include "server/download/blob_digest.h"

#include <optional>
#include <utility>

namespace modeld {
namespace {

std::variant<Sha256, GitBlobSha1> DigestFor(const RepoFile& file) {
  if (file.blob.size() == 64) return Sha256();
  return GitBlobSha1(file.size_bytes);
}

}  // namespace

BlobDigest::BlobDigest(const RepoFile& file) : digest_(DigestFor(file)) {}

void BlobDigest::Update(std::span<const char> data) {
  std::visit([&](auto& digest) { digest.Update(data); }, digest_);
}

std::string BlobDigest::HexDigest() {
  return std::visit([](auto& digest) { return digest.HexDigest(); }, digest_);
}

std::string BlobDigest::SaveState() const {
  const auto* sha256 = std::get_if<Sha256>(&digest_);
  return sha256 != nullptr ? sha256->SaveState() : "";
}

bool BlobDigest::Restore(std::string_view state) {
  if (!std::holds_alternative<Sha256>(digest_)) return false;
  std::optional<Sha256> restored = Sha256::FromState(state);
  if (!restored) return false;
  digest_ = *std::move(restored);
  return true;
}

}  // namespace modeld
