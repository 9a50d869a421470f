#include "server/cache/folder.h"

#include <algorithm>
#include <system_error>
#include <utility>

#include "server/base/file.h"

namespace modeld {

namespace fs = std::filesystem;

absl::StatusOr<std::vector<fs::path>> EntriesOf(const fs::path& folder) {
  std::vector<fs::path> out;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    out.push_back(it->path());
  }
  if (error) return FileError(error.value(), "list", folder.string());
  std::ranges::sort(out);
  return out;
}

absl::StatusOr<std::vector<fs::path>> LeavesOf(const fs::path& folder) {
  std::vector<fs::path> out;
  std::vector<fs::path> open = {folder};
  while (!open.empty()) {
    const fs::path next = std::move(open.back());
    open.pop_back();
    absl::StatusOr<std::vector<fs::path>> entries = EntriesOf(next);
    if (absl::IsNotFound(entries.status())) continue;
    if (!entries.ok()) return entries.status();
    for (fs::path& entry : *entries) {
      std::error_code error;
      const fs::file_type type = fs::symlink_status(entry, error).type();
      std::vector<fs::path>& to = type == fs::file_type::directory ? open : out;
      to.push_back(std::move(entry));
    }
  }
  std::ranges::sort(out);
  return out;
}

}  // namespace modeld
