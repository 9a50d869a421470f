// power_cut FOLDER WRITES: makes the files below FOLDER what a power cut would have left of them.
// What WRITES (of disk_faults.cc) says was written and not synced afterwards becomes zeros.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "tests/support/disk_faults/file_identity.h"

namespace {

namespace fs = std::filesystem;

struct Range {
  int64_t line = 0;  // where it was written down
  int64_t offset = 0;
  int64_t size = 0;
};

// Lines: "W FILE OFFSET SIZE", and "B FILE SYNC" and "S FILE SYNC" around a sync that succeeded.
std::map<std::string, std::vector<Range>> Unsynced(const char* writes) {
  std::map<std::string, std::vector<Range>> unsynced;
  std::map<std::string, int64_t> begun;
  std::ifstream in(writes);
  std::string kind;
  std::string file;
  for (int64_t line = 0; in >> kind >> file; ++line) {
    if (kind == "W") {
      Range range = {.line = line};
      in >> range.offset >> range.size;
      unsynced[file].push_back(range);
      continue;
    }
    std::string sync;
    in >> sync;
    if (kind == "B") {
      begun[sync] = line;
    } else {
      std::erase_if(unsynced[file], [&](const Range& r) { return r.line < begun.at(sync); });
    }
  }
  return unsynced;
}

// The bytes that were zeroed.
int64_t Zero(const fs::path& path, const std::vector<Range>& ranges) {
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC);
  const auto size = static_cast<int64_t>(fs::file_size(path));
  int64_t zeroed = 0;
  for (const Range& range : ranges) {
    const int64_t end = std::min(size, range.offset + range.size);
    if (range.offset >= end) continue;
    const std::string zeros(static_cast<size_t>(end - range.offset), '\0');
    if (pwrite(fd, zeros.data(), zeros.size(), range.offset) != std::ssize(zeros)) {
      std::perror(path.c_str());
      std::exit(1);
    }
    zeroed += std::ssize(zeros);
  }
  close(fd);
  return zeroed;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto unsynced = Unsynced(argv[2]);
  int64_t zeroed = 0;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(argv[1])) {
    if (entry.is_symlink() || !entry.is_regular_file()) continue;
    const auto lost = unsynced.find(modeld::FileIdentity(AT_FDCWD, entry.path().c_str()));
    if (lost != unsynced.end()) zeroed += Zero(entry.path(), lost->second);
  }
  std::printf("%lld\n", static_cast<long long>(zeroed));
  return 0;
}
