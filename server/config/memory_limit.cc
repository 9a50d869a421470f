#include "server/config/memory_limit.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <sstream>

#include "server/base/file.h"

namespace modeld {
namespace {

// The number in `path`; "max", a missing file and anything else are no limit.
void LowerTo(const std::string& path, int64_t& bytes) {
  const absl::StatusOr<std::string> text = ReadFile(path, 4096);
  int64_t limit = 0;
  if (!text.ok()) return;
  const auto parsed = std::from_chars(text->data(), text->data() + text->size(), limit);
  if (parsed.ec == std::errc() && limit > 0) bytes = std::min(bytes, limit);
}

}  // namespace

int64_t ProcessMemoryBytes(const std::string& root) {
  namespace fs = std::filesystem;
  int64_t bytes = static_cast<int64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  const absl::StatusOr<std::string> groups =
      ReadFile((fs::path(root) / "proc/self/cgroup").string());
  if (!groups.ok()) return bytes;
  // Lines are "0::/path" (v2) and "N:memory:/path" (v1); cgroups(7).
  std::istringstream lines(*groups);
  for (std::string line; std::getline(lines, line);) {
    const size_t path_at = line.find(":/");
    if (path_at == std::string::npos) continue;
    const bool v2 = line.starts_with("0::");
    if (!v2 && line.find(":memory:") == std::string::npos) continue;
    const fs::path mount = fs::path(root) / (v2 ? "sys/fs/cgroup" : "sys/fs/cgroup/memory");
    const std::string file = v2 ? "memory.max" : "memory.limit_in_bytes";
    LowerTo((mount / file).string(), bytes);
    fs::path at = mount;
    for (const fs::path& part : fs::path(line.substr(path_at + 2))) {
      at /= part;
      LowerTo((at / file).string(), bytes);
    }
  }
  return bytes;
}

}  // namespace modeld
