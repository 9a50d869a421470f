// A repository on the Hub: its names, its files, and the rules for both (no I/O).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace modeld {

// INVALID_FIELD (field "hf_path") unless `id` is a repository id: optional "namespace/", each part
// 1 to 96 of [A-Za-z0-9_.-], not beginning or ending with '-' or '.', without "--" or "..", not
// ending in ".git".
absl::Status ValidateRepoId(std::string_view id);

// "models--org--name", the folder below hub/. `id` is valid.
std::string RepoFolder(std::string_view id);

// INVALID_FIELD (field "revision") unless it can be a branch, tag or commit: 1 to 255 bytes, no
// control character, no ':', '\\', space, "..", "//", no leading or trailing '/'.
absl::Status ValidateRevision(std::string_view revision);

// 40 lower-case hex digits.
bool IsCommit(std::string_view revision);

// 40 (git SHA-1) or 64 (SHA-256) lower-case hex digits: the only blob names we accept from a hub.
bool IsBlobName(std::string_view etag);

// INVALID_REPOSITORY unless `path` may be made below a snapshot: relative, no empty, "." or ".."
// segment, no backslash, no control character, no drive letter, each segment at most 255 bytes.
absl::Status ValidateFilePath(std::string_view path);

// One file of a listing.
struct RepoFile {
  std::string path;  // in the repository, '/' between folders
  int64_t size_bytes = 0;
  std::string blob;      // name in blobs/: SHA-256 for LFS and Xet files, else git's SHA-1
  std::string git_oid;   // git's SHA-1 of the file or of its LFS pointer
  bool lfs = false;      // `blob` is a SHA-256
  std::string xet_hash;  // empty unless the hub stores it in Xet

  bool operator==(const RepoFile&) const = default;
};

// All files of one commit, sorted by path.
struct RepoListing {
  std::string commit;
  std::vector<RepoFile> files;
};

// Bytes of all files, each blob counted once.
int64_t TotalBytes(const std::vector<RepoFile>& files);

}  // namespace modeld
