// Which files of a repository are wanted: allow and ignore patterns as huggingface_hub reads them,
// and what no model needs.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "server/core/repo.h"

namespace modeld {

// Python's fnmatchcase: case-sensitive, '*' and '?' match '/' too, [seq], [!seq], no escapes.
// A pattern that ends in '/' means everything below it.
bool MatchesPattern(std::string_view path, std::string_view pattern);

// A file that is not wanted.
struct LeftOutFile {
  RepoFile file;
  std::string why;  // for people
};

// Keeps a file when (there is no allow pattern or one matches) and no ignore pattern matches.
// Without allow patterns it leaves out too what nobody needs beside weights that are loaded
// (model.safetensors, pytorch_model.bin, or the index of one): ONNX, GGUF, *.h5, *.msgpack,
// *.pth, what lies below original/, and *.bin in a folder with model.safetensors or its index.
struct FileFilter {
  std::vector<std::string> allow_patterns;
  std::vector<std::string> ignore_patterns;

  bool empty() const { return allow_patterns.empty() && ignore_patterns.empty(); }
  // `files` are all of the repository.
  std::vector<RepoFile> Apply(const std::vector<RepoFile>& files) const;
  // The others.
  std::vector<LeftOutFile> LeftOut(const std::vector<RepoFile>& files) const;

  bool operator==(const FileFilter&) const = default;
};

// INVALID_FIELD for an empty pattern, one above 1,000 bytes, or more than 1,000 patterns.
absl::Status ValidateFileFilter(const FileFilter& filter);

}  // namespace modeld
