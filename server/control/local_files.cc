#include "server/control/local_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

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
    RepoFile file{.path = at->path().lexically_relative(folder).string(),
                  .size_bytes = static_cast<int64_t>(size)};
    std::error_code no_link;
    file.blob = fs::read_symlink(at->path(), no_link).filename().string();
    // A file that lies in the snapshot itself shares its bytes with no other.
    if (!IsBlobName(file.blob)) file.blob = file.path;
    file.lfs = file.blob.size() == 64 && IsBlobName(file.blob);
    files.push_back(std::move(file));
  }
  if (error) return FileError(error.value(), "list", folder);
  std::ranges::sort(files, {}, &RepoFile::path);
  return files;
}

}  // namespace modeld
