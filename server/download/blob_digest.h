// The digest that a blob's name promises, computed while the bytes pass.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "server/base/sha256.h"
#include "server/core/repo.h"

namespace modeld {

// SHA-256 for LFS files, git's blob SHA-1 for all others. One thread at a time.
class BlobDigest {
 public:
  explicit BlobDigest(const RepoFile& file);

  void Update(std::span<const char> data);
  std::string HexDigest();  // the object must not be used after it

  // As Sha256's: SaveState() is empty, and Restore() false, where the state cannot be kept.
  std::string SaveState() const;
  bool Restore(std::string_view state);

 private:
  std::variant<Sha256, GitBlobSha1> digest_;
};

}  // namespace modeld
