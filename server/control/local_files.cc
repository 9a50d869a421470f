#include "server/control/local_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "server/base/file.h"

namespace modeld {

absl::StatusOr<std::vector<RepoFile>> ListFolder(const std::string& folder) {
  namespace fs = std::filesystem;
  std::vector<RepoFile> files;
  std::error_code error;
  fs::recursive_directory_iterator at(folder, error);
  for (; !error && at != fs::recursive_directory_iterator(); at.increment(error)) {
    // A directory itself is no file, a link to one is none of ours.
    if (at->symlink_status(error).type() == fs::file_type::directory) continue;
    const auto size = fs::file_size(at->path(), error);
    if (error) return FileError(error.value(), "stat", at->path().string());
    const fs::path blob = fs::canonical(at->path(), error);
    if (error) return FileError(error.value(), "resolve", at->path().string());
    files.push_back({.path = at->path().lexically_relative(folder).string(),
                     .size_bytes = static_cast<int64_t>(size),
                     .blob = blob.filename().string()});
  }
  if (error) return FileError(error.value(), "list", folder);
  std::ranges::sort(files, {}, &RepoFile::path);
  return files;
}

}  // namespace modeld
