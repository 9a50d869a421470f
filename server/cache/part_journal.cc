#include "server/cache/part_journal.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "server/base/file.h"
#include "server/base/status.h"

namespace modeld {
namespace {

using nlohmann::json;

// Longer ones are none of ours: a journal of 10,000 ranges has 300 kB.
constexpr int64_t kJournalBytesMax = 4 << 20;

json RangesToJson(const std::vector<ByteRange>& ranges) {
  json out = json::array();
  for (const ByteRange& range : ranges) out.push_back({range.begin, range.end});
  return out;
}

std::vector<ByteRange> RangesFromJson(const json& value) {
  std::vector<ByteRange> out;
  for (const json& pair : value) {
    out.push_back({pair.at(0).get<int64_t>(), pair.at(1).get<int64_t>()});
  }
  return out;
}

bool AreSound(const std::vector<ByteRange>& ranges, int64_t size_bytes) {
  int64_t at = 0;
  for (const ByteRange& range : ranges) {
    if (range.begin < at || range.end <= range.begin || range.end > size_bytes) return false;
    at = range.end;
  }
  return true;
}

// The temporary name is always the same: whoever writes a journal holds the blob's lock or a part
// name of his own, and so a killed process leaves at most one.
absl::Status ReplaceQuickly(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".tmp";
  ASSIGN_OR_RETURN(const UniqueFd fd,
                   OpenFile(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0666));
  RETURN_IF_ERROR(WriteAt(fd.get(), text, 0, temporary));
  if (rename(temporary.c_str(), path.c_str()) != 0) return FileError(errno, "rename", path);
  return absl::OkStatus();
}

}  // namespace

const std::vector<ByteRange>& PartJournal::Trusted() const {
  return !boot_id.empty() && boot_id == BootId() ? done : durable;
}

absl::Status WritePartJournal(const std::string& path, const PartJournal& journal,
                              JournalWrite mode) {
  const std::string text = json{
      {"version", 1},
      {"blob", journal.blob},
      {"size", journal.size_bytes},
      {"done", RangesToJson(journal.done)},
      {"durable", RangesToJson(journal.durable)},
      {"boot_id", journal.boot_id},
      {"sha256_state", journal.sha256_state},
      {"sha256_offset",
       journal.sha256_offset}}.dump();
  return mode == JournalWrite::kDurable ? WriteFileAtomically(path, text)
                                        : ReplaceQuickly(path, text);
}

absl::StatusOr<PartJournal> ReadPartJournal(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kJournalBytesMax));
  try {
    const json value = json::parse(text);
    PartJournal journal;
    journal.blob = value.at("blob").get<std::string>();
    journal.size_bytes = value.at("size").get<int64_t>();
    journal.done = RangesFromJson(value.at("done"));
    journal.durable = RangesFromJson(value.at("durable"));
    journal.boot_id = value.at("boot_id").get<std::string>();
    journal.sha256_state = value.at("sha256_state").get<std::string>();
    journal.sha256_offset = value.at("sha256_offset").get<int64_t>();
    const bool sound = value.at("version") == 1 && AreSound(journal.done, journal.size_bytes) &&
                       AreSound(journal.durable, journal.size_bytes) &&
                       journal.sha256_offset >= 0 && journal.sha256_offset <= journal.size_bytes;
    if (sound) return journal;
  } catch (const json::exception&) {
    // A torn write: the same answer as for one that makes no sense.
  }
  return absl::DataLossError("the journal " + path + " is broken");
}

std::string BootId() {
  const absl::StatusOr<std::string> id = ReadFile("/proc/sys/kernel/random/boot_id");
  return id.ok() ? id->substr(0, 36) : "";
}

}  // namespace modeld
