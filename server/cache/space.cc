#include "server/cache/space.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/base/file.h"
#include "server/base/status.h"
#include "server/cache/part_journal.h"
#include "server/cache/tree_size.h"
#include "server/core/bytes.h"
#include "server/core/cache_location.h"
#include "server/core/reason.h"

namespace modeld {
namespace {

// Above this share of the filesystem in use a registration or download is warned about.
constexpr double kFullShareWarned = 0.9;

// statfs(2) f_type, from its manual page.
constexpr std::array<std::pair<uint32_t, const char*>, 11> kFilesystemTypes = {{
    {0xef53, "ext4"},
    {0x01021994, "tmpfs"},
    {0x58465342, "xfs"},
    {0x9123683e, "btrfs"},
    {0x6969, "nfs"},
    {0x794c7630, "overlay"},
    {0x65735546, "fuse"},
    {0xff534d42, "cifs"},
    {0x0bd00bd0, "lustre"},
    {0x2fc12fc1, "zfs"},
    {0xf2f52010, "f2fs"},
}};

std::string NearestExisting(const std::string& path) {
  std::filesystem::path at(path.empty() ? "." : path);
  std::error_code error;
  while (!std::filesystem::exists(at, error) && at.has_parent_path() && at != at.parent_path()) {
    at = at.parent_path();
  }
  return at.string();
}

bool IsOfNetwork(std::string_view type) {
  return type == "nfs" || type == "cifs" || type == "lustre";
}

// Device numbers are the kernel's own, so that they name a filesystem only together with the start
// of the machine.
std::string FilesystemId(const std::string& type, uint64_t device) {
  if (IsOfNetwork(type)) {
    const absl::StatusOr<std::string> mounts = ReadFile("/proc/self/mountinfo");
    const std::string source = mounts.ok() ? MountSource(*mounts, device) : "";
    if (!source.empty()) return absl::StrCat(type, " ", source);
  }
  return absl::StrCat(BootId(), " ", device);
}

}  // namespace

// Its fields: id, parent, major:minor, root, mount point, options, optional ones up to "-", type,
// source, options of the superblock.
std::string MountSource(std::string_view mountinfo, uint64_t device) {
  const std::string wanted = absl::StrCat(major(device), ":", minor(device));
  const std::string text(mountinfo);
  for (const auto line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> fields = absl::StrSplit(line, ' ');
    if (fields.size() < 3 || fields[2] != wanted) continue;
    const auto dash = std::ranges::find(fields, "-");
    if (fields.end() - dash > 2) return *(dash + 2);
  }
  return "";
}

absl::StatusOr<Filesystem> FilesystemOf(const std::string& path) {
  const std::string at = NearestExisting(path);
  struct stat info{};
  struct statvfs space{};
  struct statfs kind{};
  if (stat(at.c_str(), &info) != 0) return FileError(errno, "stat", at);
  if (statvfs(at.c_str(), &space) != 0 || statfs(at.c_str(), &kind) != 0) {
    return FileError(errno, "statvfs", at);
  }
  Filesystem out;
  const auto unit = static_cast<int64_t>(space.f_frsize);
  out.total_bytes = static_cast<int64_t>(space.f_blocks) * unit;
  out.free_bytes = static_cast<int64_t>(space.f_bavail) * unit;
  for (const auto& [magic, name] : kFilesystemTypes) {
    if (static_cast<uint32_t>(kind.f_type) == magic) out.type = name;
  }
  out.id = FilesystemId(out.type, info.st_dev);
  return out;
}

SpaceCheck CheckSpace(std::string_view cache_path, const Filesystem& filesystem,
                      int64_t required_bytes, int64_t reserved_bytes) {
  SpaceCheck check;
  check.cache_path = cache_path;
  check.free_bytes = std::max<int64_t>(0, filesystem.free_bytes - reserved_bytes);
  if (required_bytes < 0) {
    check.sufficient = true;
    check.warning = true;
    check.message = absl::StrCat("the size is not known; ", FormatBytes(check.free_bytes),
                                 " free on ", check.cache_path);
    return check;
  }
  check.required_bytes = required_bytes;
  check.sufficient = required_bytes <= check.free_bytes;
  check.message = absl::StrCat("needs ", FormatBytes(required_bytes), ", ",
                               FormatBytes(check.free_bytes), " free on ", check.cache_path);
  const int64_t used_after = filesystem.total_bytes - check.free_bytes + required_bytes;
  const double share = filesystem.total_bytes > 0 ? static_cast<double>(used_after) /
                                                        static_cast<double>(filesystem.total_bytes)
                                                  : 1.0;
  check.warning = share > kFullShareWarned;
  if (check.warning && check.sufficient) {
    absl::StrAppend(&check.message, "; the filesystem would be ",
                    static_cast<int>(share * 100 + 0.5), " % full");
  }
  return check;
}

absl::Status CheckNoSymlinks(const std::string& path, const std::string& root) {
  if (!IsBelow(path, root)) {
    return InvalidField("cache_path", absl::StrCat(path, " is not below ", root));
  }
  for (size_t at = root.size(); at < path.size();) {
    at = std::min(path.find('/', at + 1), path.size());
    const std::string prefix = path.substr(0, at);
    struct stat info{};
    if (lstat(prefix.c_str(), &info) != 0) {
      if (errno == ENOENT) return absl::OkStatus();  // what is not there cannot lead away
      return InvalidField("cache_path", std::string(FileError(errno, "stat", prefix).message()));
    }
    if (S_ISLNK(info.st_mode)) {
      return InvalidField("cache_path", absl::StrCat(prefix,
                                                     " is a symbolic link; a custom path "
                                                     "must not pass through one below ",
                                                     root));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<CacheSummary> SummarizeCache(const std::string& cache_path) {
  CacheSummary out;
  out.cache_path = cache_path;
  ASSIGN_OR_RETURN(out.filesystem, FilesystemOf(cache_path));
  const std::string hub = cache_path + "/hub";
  out.used_bytes = AllocatedBytes(hub);
  std::error_code error;
  for (std::filesystem::directory_iterator it(hub, error), end; !error && it != end;
       it.increment(error)) {
    std::error_code of_entry;
    if (it->path().filename().string().starts_with("models--") && it->is_directory(of_entry)) {
      ++out.repositories;
    }
  }
  return out;
}

}  // namespace modeld
